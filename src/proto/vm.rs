//! A VM as the contract shows it, and back.

use uuid::Uuid;

use super::{spec_to_proto, v1};
use crate::{
    model::{Exit, ExitReason, RunStatus, Site, Status, Timestamp, VmRecord},
    spec::{
        DiskSpec, Enforcement, LimitReport, Restriction, VmSpec, VmState,
        secret::{has_secrets, redacted, shown},
    },
};

/// Whether a reader sees secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// As they are.
    Whole,
    /// Covered.
    Redacted,
}

/// A VM at `site`.
pub(crate) fn vm_to_proto(record: &VmRecord, site: &Site, sight: Sight) -> v1::Vm {
    let spec = match sight {
        Sight::Redacted if has_secrets(&record.spec) => shown(&redacted(&record.spec)),
        _ => shown(&record.spec),
    };
    vm_with(record, site, spec_to_proto(&spec))
}

/// Like [`vm_to_proto`], for a VM whose machine is already in the contract's form.
pub(crate) fn vm_with(record: &VmRecord, site: &Site, spec: v1::VmSpec) -> v1::Vm {
    v1::Vm {
        uuid: record.uuid.to_string(),
        spec: Some(spec),
        status: Some(v1::VmStatus { disks: disks(record), ..status_to_proto(&record.status(site)) }),
        etag: record.etag(),
    }
}

/// Disks that began as an image.
fn disks(record: &VmRecord) -> Vec<v1::DiskStatus> {
    let status = |disk: &DiskSpec| {
        Some(v1::DiskStatus {
            path: disk.path.clone().unwrap_or_default(),
            image_uuid: disk.image_uuid?.to_string(),
            form: disk.form?.as_str().to_owned(),
        })
    };
    record.spec.disks.iter().filter_map(status).collect()
}

fn status_to_proto(status: &Status) -> v1::VmStatus {
    let run = status.run.as_ref();
    v1::VmStatus {
        state: state(status.state).into(),
        create_time: Some(time(status.created)),
        last_modified: Some(time(status.modified)),
        boot_time: run.map(|run| time(run.booted)),
        pid: run.map(|run| run.pid),
        exit: status.exit.as_ref().map(exit),
        accelerator: run.map(|run| run.accelerator.clone()),
        hypervisor: run.map(|run| run.hypervisor.clone()),
        zonepath: status.site.zonepath.clone(),
        server_uuid: status.site.server_uuid.to_string(),
        restrictions: run.map(|run| restrictions(&run.enforcements)).unwrap_or_default(),
        limits: run.map(|run| limits(&run.limits)).unwrap_or_default(),
        disks: Vec::new(),
        transition_to: status.transition.map_or(v1::VmState::Unspecified, |(to, _)| state(to)).into(),
        transition_expire: status.transition.and_then(|(_, expire)| expire).map(time),
        resets: run.map(|run| i64::try_from(run.resets).unwrap_or(i64::MAX)),
    }
}

/// Reads a VM's status back from a message. A value newer than this program counts as unknown.
pub(crate) fn status_from_proto(vm: &v1::Vm) -> Status {
    let status = vm.status.clone().unwrap_or_default();
    let run = status.pid.map(|pid| RunStatus {
        pid,
        booted: status.boot_time.as_ref().map_or(Timestamp(0), time_from),
        accelerator: status.accelerator.clone().unwrap_or_default(),
        hypervisor: status.hypervisor.clone().unwrap_or_default(),
        enforcements: restrictions_from(&status.restrictions),
        limits: limits_from(&status.limits),
        resets: status.resets.and_then(|resets| u64::try_from(resets).ok()).unwrap_or_default(),
    });
    let to = Some(status.transition_to()).filter(|to| *to != v1::VmState::Unspecified);
    Status {
        uuid: Uuid::try_parse(&vm.uuid).unwrap_or_default(),
        etag: vm.etag.clone(),
        site: Site {
            zonepath: status.zonepath.clone(),
            server_uuid: status.server_uuid.parse().unwrap_or_default(),
        },
        state: state_from(status.state()),
        created: status.create_time.as_ref().map_or(Timestamp(0), time_from),
        modified: status.last_modified.as_ref().map_or(Timestamp(0), time_from),
        run,
        exit: status.exit.as_ref().map(exit_from),
        transition: to.map(|to| (state_from(to), status.transition_expire.as_ref().map(time_from))),
    }
}

/// Converts a state; one newer than this program counts as unknown, and so as lost.
pub(crate) fn state_from(state: v1::VmState) -> VmState {
    match state {
        v1::VmState::Provisioning => VmState::Provisioning,
        v1::VmState::Stopped => VmState::Stopped,
        v1::VmState::Starting => VmState::Starting,
        v1::VmState::Running => VmState::Running,
        v1::VmState::Stopping => VmState::Stopping,
        v1::VmState::Deleting => VmState::Deleting,
        v1::VmState::Failed => VmState::Failed,
        v1::VmState::Paused => VmState::Paused,
        v1::VmState::Suspended => VmState::Suspended,
        v1::VmState::Lost | v1::VmState::Unspecified => VmState::Lost,
    }
}

pub(crate) fn restrictions_from(all: &[v1::Restriction]) -> Vec<Enforcement> {
    all.iter().filter_map(enforcement).collect()
}

pub(crate) fn limits_from(all: &[v1::Limit]) -> Vec<LimitReport> {
    all.iter().map(limit).collect()
}

fn enforcement(found: &v1::Restriction) -> Option<Enforcement> {
    use v1::restriction::Kind as Wire;
    let restriction = match found.kind() {
        Wire::ModifyFilesystem => Restriction::ModifyFilesystem,
        Wire::Network => Restriction::Network,
        Wire::CreateProcess => Restriction::CreateProcess,
        Wire::SeeProcesses => Restriction::SeeProcesses,
        Wire::SignalOutside => Restriction::SignalOutside,
        Wire::Unspecified => return None,
    };
    Some(Enforcement { restriction, mechanisms: found.mechanisms.clone(), reason: found.reason.clone() })
}

fn limit(found: &v1::Limit) -> LimitReport {
    LimitReport {
        property: found.property.clone(),
        mechanism: found.mechanism.clone(),
        reason: found.reason.clone(),
    }
}

fn exit_from(exit: &v1::ExitInfo) -> Exit {
    let reason = match exit.reason() {
        v1::ExitReason::GuestShutdown => ExitReason::GuestShutdown,
        v1::ExitReason::GuestPanic => ExitReason::GuestPanic,
        v1::ExitReason::Operator => ExitReason::Operator,
        v1::ExitReason::HypervisorError => ExitReason::HypervisorError,
        v1::ExitReason::Signal => ExitReason::Signal,
        v1::ExitReason::OutOfMemory => ExitReason::OutOfMemory,
        v1::ExitReason::GuestReset => ExitReason::GuestReset,
        v1::ExitReason::HostShutdown => ExitReason::HostShutdown,
        v1::ExitReason::PowerCut => ExitReason::PowerCut,
        v1::ExitReason::Unknown | v1::ExitReason::Unspecified => ExitReason::Unknown,
    };
    let time = exit.time.as_ref().map_or(Timestamp(0), time_from);
    Exit { reason, status: exit.status, time, detail: exit.detail.clone(), obeyed: false }
}

/// Whether a machine in the contract's form is the same for every reader.
pub(crate) fn is_the_same_for_all(spec: &VmSpec) -> bool {
    !has_secrets(spec)
}

fn state(state: VmState) -> v1::VmState {
    match state {
        VmState::Provisioning => v1::VmState::Provisioning,
        VmState::Stopped => v1::VmState::Stopped,
        VmState::Starting => v1::VmState::Starting,
        VmState::Running => v1::VmState::Running,
        VmState::Stopping => v1::VmState::Stopping,
        VmState::Deleting => v1::VmState::Deleting,
        VmState::Failed => v1::VmState::Failed,
        VmState::Lost => v1::VmState::Lost,
        VmState::Paused => v1::VmState::Paused,
        VmState::Suspended => v1::VmState::Suspended,
    }
}

/// Converts restrictions.
pub(crate) fn restrictions(all: &[Enforcement]) -> Vec<v1::Restriction> {
    use v1::restriction::Kind as Wire;
    all.iter()
        .map(|found| v1::Restriction {
            kind: match found.restriction {
                Restriction::ModifyFilesystem => Wire::ModifyFilesystem,
                Restriction::Network => Wire::Network,
                Restriction::CreateProcess => Wire::CreateProcess,
                Restriction::SeeProcesses => Wire::SeeProcesses,
                Restriction::SignalOutside => Wire::SignalOutside,
            }
            .into(),
            enforced: found.is_enforced(),
            mechanisms: found.mechanisms.clone(),
            reason: found.reason.clone(),
        })
        .collect()
}

/// Converts limits.
pub(crate) fn limits(all: &[LimitReport]) -> Vec<v1::Limit> {
    all.iter()
        .map(|found| v1::Limit {
            property: found.property.clone(),
            effective: found.is_effective(),
            mechanism: found.mechanism.clone(),
            reason: found.reason.clone(),
        })
        .collect()
}

fn exit(exit: &Exit) -> v1::ExitInfo {
    let reason = match exit.reason {
        ExitReason::Unknown => v1::ExitReason::Unknown,
        ExitReason::GuestShutdown => v1::ExitReason::GuestShutdown,
        ExitReason::GuestPanic => v1::ExitReason::GuestPanic,
        ExitReason::Operator => v1::ExitReason::Operator,
        ExitReason::HypervisorError => v1::ExitReason::HypervisorError,
        ExitReason::Signal => v1::ExitReason::Signal,
        ExitReason::OutOfMemory => v1::ExitReason::OutOfMemory,
        ExitReason::GuestReset => v1::ExitReason::GuestReset,
        ExitReason::HostShutdown => v1::ExitReason::HostShutdown,
        ExitReason::PowerCut => v1::ExitReason::PowerCut,
    };
    v1::ExitInfo {
        reason: reason.into(),
        status: exit.status,
        time: Some(time(exit.time)),
        detail: exit.detail.clone(),
    }
}

/// A time.
pub(crate) fn time(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.0.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds: time.0.div_euclid(1000), nanos }
}

/// Converts it back.
pub(crate) fn time_from(time: &prost_types::Timestamp) -> Timestamp {
    Timestamp(time.seconds.saturating_mul(1000).saturating_add((time.nanos / 1_000_000).into()))
}
