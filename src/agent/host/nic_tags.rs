//! The nic tags of the host, watched: their guests notice when one can't be used, and are connected again.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    agent::context::{VmContext, command::Command},
    network::TagReport,
};

/// Between looks at what nic tags are made of.
const EVERY: Duration = Duration::from_secs(10);

/// Says once when a nic tag can no longer be used, which running guests may notice, and once when it can again.
/// Then its guests are connected again, too.
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
                None if before.is_some() => tracing::info!(nic_tag = name, "is back"),
                _ => {}
            }
        }
        for uuid in links.astray().await.unwrap_or_default() {
            // One that has no time for it is found again by the next look.
            let _ = context.registry.get(uuid).and_then(|vm| vm.send(Command::Rejoin));
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
