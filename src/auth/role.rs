//! Roles, and the role of each rpc.

use std::{fmt, str::FromStr};

use crate::proto::Rpc;

/// A caller's permissions; each role includes those of the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read VMs, events and the host.
    Viewer,
    /// Run VMs: boot, stop, console, screen, files.
    Operator,
    /// Create and delete VMs.
    Admin,
}

impl Role {
    /// All roles, by name.
    pub const NAMES: &[(&str, Self)] =
        &[("viewer", Self::Viewer), ("operator", Self::Operator), ("admin", Self::Admin)];

    /// Its name in a certificate.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, role)| *role)
            .ok_or_else(|| format!("{text:?} is not a role: viewer, operator or admin"))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The least role that may call an rpc. No wildcard: a new rpc has to be decided about here.
#[must_use]
pub const fn needed(rpc: Rpc) -> Role {
    match rpc {
        Rpc::ValidateVm
        | Rpc::GetVmSchema
        | Rpc::GetVm
        | Rpc::ListVms
        | Rpc::GetVmInfo
        | Rpc::ListFiles
        | Rpc::WatchEvents
        | Rpc::ListEvents
        | Rpc::GetHost
        | Rpc::ListNicTags
        | Rpc::ListImages
        | Rpc::GetImage
        | Rpc::ListImageSources
        | Rpc::ListLeaks => Role::Viewer,
        // A guest's console and screen are the guest's own.
        Rpc::StartVm
        | Rpc::StopVm
        | Rpc::RebootVm
        | Rpc::KillVm
        | Rpc::SendSysrq
        | Rpc::PauseVm
        | Rpc::ResumeVm
        | Rpc::ChangeMedia
        | Rpc::TakeScreenshot
        | Rpc::PutFile
        | Rpc::DeleteFile
        | Rpc::Attach
        | Rpc::ConnectVnc
        | Rpc::CreateVncLink
        | Rpc::ReadLog
        // The agent speaks to others for the caller.
        | Rpc::ListRemoteImages
        // What is on an image is as good as what is on a disk.
        | Rpc::ExportImage => Role::Operator,
        Rpc::CreateVm
        | Rpc::UpdateVm
        | Rpc::DeleteVm
        | Rpc::ImportImage
        | Rpc::FetchImage
        | Rpc::DeleteImage
        | Rpc::ReclaimLeaks
        | Rpc::DrainHost => Role::Admin,
    }
}

/// The least role for a path on the wire; `None` when there is no such rpc.
pub(super) fn needed_for_path(path: &str) -> Option<Role> {
    if path.starts_with("/grpc.health.v1.") || path.starts_with("/grpc.reflection.v1") {
        return Some(Role::Viewer);
    }
    Rpc::ALL.iter().find(|rpc| rpc.path() == path).map(|rpc| needed(*rpc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_contracts() {
        assert_eq!(needed_for_path("/zoneward.v1.VmService/CreateVm"), Some(Role::Admin));
        assert_eq!(needed_for_path("/zoneward.v1.ConsoleService/Attach"), Some(Role::Operator));
        assert_eq!(needed_for_path("/grpc.health.v1.Health/Check"), Some(Role::Viewer));
        assert_eq!(needed_for_path("/zoneward.v1.VmService/createVm"), None);
        assert_eq!(Rpc::ALL.len(), 39);
    }
}
