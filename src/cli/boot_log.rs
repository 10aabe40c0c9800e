//! `boot-log`: where the time of the last boot went.

use serde_json::json;

use super::{Clients, error::CliError, machine, print};
use crate::proto::v1::{self, boot_phase::Phase, event::Kind};

/// Cells of a bar.
const WIDTH: i64 = 40;

/// A phase that was reached: its name, when, and what went wrong there.
struct Reached {
    name: String,
    elapsed_us: i64,
    reason: String,
}

pub(super) async fn boot_log(clients: &mut Clients, uuid: &str, as_json: bool) -> Result<(), CliError> {
    clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await?;
    let mut request = v1::ListEventsRequest {
        page_size: 256,
        newest_first: true,
        uuids: vec![uuid.to_owned()],
        kinds: vec![v1::EventKind::Boot.into()],
        ..Default::default()
    };
    let mut events = Vec::new();
    loop {
        let page = clients.events.list_events(request.clone()).await?.into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() || events.iter().any(is_first) {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let (began, phases) = last_boot(&events);
    if phases.is_empty() {
        return Err(CliError::failed(format!(
            "VM {uuid} was not booted, as far as the journal reaches back"
        )));
    }
    if as_json {
        let list: Vec<_> = phases
            .iter()
            .map(|phase| json!({"phase": phase.name, "elapsed_us": phase.elapsed_us, "reason": phase.reason}))
            .collect();
        return print(&json!({"uuid": uuid, "date": began, "phases": list}).to_string());
    }
    print(&format!("Boot of {uuid} at {began}"))?;
    for line in timeline(&phases) {
        print(&line)?;
    }
    Ok(())
}

/// Whether a boot begins with it, or failed before that.
fn is_first(event: &v1::Event) -> bool {
    let Some(Kind::Boot(phase)) = &event.kind else { return false };
    phase.phase() == Phase::ZoneReady || (phase.phase() == Phase::Failed && phase.step == "zone")
}

/// The phases since the newest first one; events come newest first.
fn last_boot(events: &[v1::Event]) -> (String, Vec<Reached>) {
    let mut phases: Vec<Reached> = Vec::new();
    let mut began = String::new();
    for event in events {
        let Some(Kind::Boot(phase)) = &event.kind else { continue };
        began = event.time.as_ref().map(machine::iso).unwrap_or_default();
        let name = phase.phase().as_str_name().trim_start_matches("PHASE_").to_owned();
        let reason = match phase.phase() {
            Phase::Failed => format!("{}: {}", phase.step, phase.reason),
            Phase::GuestAddress => format!("{} on {}", phase.address, phase.mac),
            _ => String::new(),
        };
        phases.push(Reached { name, elapsed_us: phase.elapsed_us, reason });
        if is_first(event) {
            break;
        }
    }
    phases.reverse();
    (began, phases)
}

/// Formats a line for each phase: its duration, its time, and a bar that shows its part of the boot.
fn timeline(phases: &[Reached]) -> Vec<String> {
    let total = phases.last().map_or(1, |last| last.elapsed_us.max(1));
    let cell = |us: i64| us * WIDTH / total;
    let mut before = 0;
    let mut lines = Vec::new();
    for phase in phases {
        let (from, to) = (cell(before), cell(phase.elapsed_us));
        let bar: String =
            (0..WIDTH).map(|at| if at >= from && at < to.max(from + 1) { '█' } else { '·' }).collect();
        let took = milliseconds(phase.elapsed_us - before);
        let since = milliseconds(phase.elapsed_us);
        lines.push(format!("{:<20} {took:>10}  {bar}  +{since}", phase.name).trim_end().to_owned());
        if !phase.reason.is_empty() {
            lines.push(format!("    {}", phase.reason));
        }
        before = phase.elapsed_us;
    }
    lines
}

fn milliseconds(us: i64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(phase: Phase, elapsed_us: i64) -> v1::Event {
        let reached = v1::BootPhase { phase: phase.into(), elapsed_us, ..Default::default() };
        v1::Event { kind: Some(Kind::Boot(reached)), ..Default::default() }
    }

    #[test]
    fn the_last_boot_alone() {
        let mut events = vec![
            event(Phase::ZoneReady, 10),
            event(Phase::Running, 900),
            event(Phase::ZoneReady, 1000),
            event(Phase::ControlReady, 3000),
            event(Phase::Running, 4000),
        ];
        events.reverse();
        let (_, phases) = last_boot(&events);
        assert_eq!(phases.iter().map(|phase| phase.elapsed_us).collect::<Vec<_>>(), [1000, 3000, 4000]);
        let lines = timeline(&phases);
        assert_eq!(
            lines[0],
            format!("ZONE_READY               1.0 ms  {}{}  +1.0 ms", "█".repeat(10), "·".repeat(30))
        );
        assert_eq!(
            lines[1],
            format!(
                "CONTROL_READY            2.0 ms  {}{}{}  +3.0 ms",
                "·".repeat(10),
                "█".repeat(20),
                "·".repeat(10)
            )
        );
    }
}
