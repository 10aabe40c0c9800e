//! Finds what an earlier agent left: every hypervisor that outlived it, and everything that it did not
//! finish. The VM's actor receives the findings as its first command, and decides.
//!
//! | record says | host says | becomes |
//! |---|---|---|
//! | provisioning | anything | removed, as if it had never been |
//! | deleting | anything | deleted |
//! | starting | a process that does not run guest code yet | killed, stopped |
//! | starting | a process that runs guest code | running; its calls are answered |
//! | any with a hypervisor | no process | stopped; started again, if it was to be rebooted |
//! | stopping | the process, and it answers | stopping, until the deadline that was set |
//! | any with a hypervisor | the process, and it answers | as it was |
//! | any with a hypervisor | the process, silent; or nobody can tell | lost, and left alone |

use std::{collections::HashSet, sync::Arc};

use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    agent::{
        context::{
            VmContext,
            findings::{Findings, PATIENCE, Remains},
        },
        guest::links,
        request::call::Call,
        vm::{Actor, create},
    },
    hypervisor::{GuestStatus, HypervisorError, InfoType, Machine},
    model::VmRecord,
    spec::VmState,
    zone::Found,
};

/// Adopts every VM; returns when all are decided.
pub(in crate::agent) async fn adopt_all(context: &VmContext, records: Vec<VmRecord>) {
    let with_links = Arc::new(links::remains(context).await);
    let mut adoptions = tokio::task::JoinSet::new();
    for record in records {
        let (context, with_links) = (context.clone(), with_links.clone());
        adoptions.spawn(async move { Box::pin(adopt(&context, record, &with_links)).await });
    }
    while adoptions.join_next().await.is_some() {}
}

async fn adopt(context: &VmContext, record: VmRecord, with_links: &HashSet<Uuid>) {
    if matches!(record.state, VmState::Provisioning | VmState::Deleting) {
        tracing::info!(vm = %record.uuid, state = %record.state, "finishing what was interrupted");
        let call = record.waiting.first().cloned().map_or_else(Call::own, Call::from_waiting);
        create::discard(context, &call, &record).await;
        return;
    }
    let hypervisor = find(context, &record).await;
    let findings = Findings { hypervisor, has_links: with_links.contains(&record.uuid) };
    Actor::adopt(context, record, findings).await;
}

async fn find(context: &VmContext, record: &VmRecord) -> Remains {
    if record.state == VmState::Stopped {
        return Remains::Nothing;
    }
    let layout = context.layout_of(record.uuid);
    let process = match context.platform.zone.find(record.uuid, &layout) {
        Found::Gone(ended) => return Remains::Gone(ended),
        Found::Unknown(why) => return Remains::Silent { process: None, why },
        Found::Alive(process) => process,
    };
    let silent = |why: String| Remains::Silent { process: Some(process.clone()), why };
    match timeout(PATIENCE, greet(context, record)).await {
        Ok(Ok((machine, status, accelerator))) => Remains::Answers { process, machine, status, accelerator },
        // It may be exiting.
        Ok(Err(error)) if record.state == VmState::Starting => match timeout(PATIENCE, process.ended()).await
        {
            Ok(ended) => Remains::Gone(ended),
            Err(_) => silent(error.to_string()),
        },
        Ok(Err(error)) => silent(error.to_string()),
        Err(_) => silent("it does not answer".to_owned()),
    }
}

/// Makes every request that a hypervisor must answer before its adoption.
async fn greet(
    context: &VmContext,
    record: &VmRecord,
) -> Result<(Arc<dyn Machine>, GuestStatus, &'static str), HypervisorError> {
    let layout = context.layout_of(record.uuid);
    let machine = context.hypervisor(record).attach(record.uuid, &layout.control(), PATIENCE).await?;
    if let Some(password) = record.vnc_password() {
        // It was promised, whether or not the earlier agent set it.
        machine.set_vnc_password(Some(password)).await?;
    }
    let status = machine.status().await?;
    let kvm = machine.info(InfoType::Kvm).await?;
    Ok((machine, status, if kvm["enabled"] == true { "kvm" } else { "tcg" }))
}
