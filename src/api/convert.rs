//! Converts between the contract's messages and the agent's own types; [`crate::proto`] converts the model's.

use crate::{
    agent::{Capacity, Leak, LeakKind, View},
    network::{TagKind, TagReport},
    proto::{Sight, is_the_same_for_all, offset, v1, vm_to_proto, vm_with},
    storage::{Entry, EntryKind, Partial},
};

/// Converts a VM's view for a caller.
pub(super) fn view(view: &View, sight: Sight) -> v1::Vm {
    match sight {
        Sight::Redacted if !is_the_same_for_all(&view.record.spec) => {
            vm_to_proto(&view.record, &view.site, sight)
        }
        _ => vm_with(&view.record, &view.site, view.spec.clone()),
    }
}

// --- files --------------------------------------------------------------------------------------

pub(super) fn file_entry(entry: &Entry) -> v1::FileEntry {
    let kind = match entry.kind {
        EntryKind::File => v1::file_entry::Type::File,
        EntryKind::Folder => v1::file_entry::Type::Folder,
        EntryKind::Link => v1::file_entry::Type::Link,
        EntryKind::Other => v1::file_entry::Type::Other,
    };
    v1::FileEntry {
        path: entry.path.clone(),
        r#type: kind.into(),
        size: offset(entry.size),
        modified: Some(prost_types::Timestamp { seconds: entry.modified, nanos: 0 }),
    }
}

pub(super) fn upload(partial: Partial) -> v1::Upload {
    v1::Upload {
        path: partial.plan.path,
        size: offset(partial.plan.size),
        sha256: partial.plan.sha256,
        committed: offset(partial.committed),
    }
}

// --- the host -----------------------------------------------------------------------------------

pub(super) fn nic_tag(report: TagReport) -> v1::NicTag {
    use v1::nic_tag::Kind;
    let kind = match report.tag.kind {
        TagKind::Isolated => Kind::Isolated,
        TagKind::Etherstub => Kind::Etherstub,
        TagKind::Bridge => Kind::Bridge,
        TagKind::Uplink => Kind::Uplink,
        TagKind::Macvtap => Kind::Macvtap,
    };
    v1::NicTag {
        name: report.name,
        kind: kind.into(),
        device: report.device.unwrap_or_default(),
        uplink: if kind == Kind::Uplink { report.tag.link } else { String::new() },
        mtu: report.tag.mtu,
        problem: report.problem.unwrap_or_default(),
    }
}

pub(super) fn leak(leak: Leak) -> v1::Leak {
    let kind = match leak.kind {
        LeakKind::ZoneFolder => v1::leak::Kind::ZoneFolder,
        LeakKind::RunFolder => v1::leak::Kind::RunFolder,
        LeakKind::Process => v1::leak::Kind::Process,
        LeakKind::ControlGroup => v1::leak::Kind::ControlGroup,
        LeakKind::Upload => v1::leak::Kind::Upload,
        LeakKind::Link => v1::leak::Kind::Link,
    };
    v1::Leak {
        id: leak.id,
        kind: kind.into(),
        uuid: leak.uuid.to_string(),
        path: leak.path,
        detail: leak.detail,
        reclaimable: leak.reclaimable,
    }
}

pub(super) fn capacity(capacity: Capacity) -> v1::Capacity {
    v1::Capacity {
        resource: capacity.resource.as_str().to_owned(),
        total: offset(capacity.total),
        limit: capacity.limit.map(offset),
        promised: offset(capacity.promised),
    }
}
