//! Watches the host's nic tags: logs when one can't be used, and reconnects its guests when it is back.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    agent::context::{VmContext, command::Command},
    network::TagReport,
};

/// The interval between checks of nic tags.
const EVERY: Duration = Duration::from_secs(10);

/// Logs once when a nic tag can no longer be used, which running guests may notice, and once when it can
/// again. Then also reconnects its guests.
pub(in crate::agent) async fn watch_tags(context: VmContext) {
    let links = context.platform.links.clone();
    if links.known().are_isolated() {
        return;
    }
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    loop {
        for TagReport { name, problem, .. } in links.tags().await {
            let before = known.insert(name.clone(), problem.clone()).flatten();
            match problem {
                Some(problem) if before.as_ref() != Some(&problem) => {
                    tracing::warn!(nic_tag = name, problem, "interfaces on it lead nowhere");
                }
                None if before.is_some() => tracing::info!(nic_tag = name, "the nic tag is usable again"),
                _ => {}
            }
        }
        for uuid in links.astray().await.unwrap_or_default() {
            // A VM whose queue is full is found again by the next check.
            let _ = context.registry.get(uuid).and_then(|vm| vm.send(Command::Rejoin));
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
