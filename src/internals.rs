//! The parts that this project's own programs, tests and benchmarks use. No other program may: they change without notice.
#![allow(missing_docs, reason = "not for others")]

#[cfg(feature = "agent")]
pub use of_the_agent::*;

/// The operator's command.
#[cfg(feature = "vmadm")]
pub mod cli {
    pub use crate::cli::{complete, main, run, run_imgadm};
}

#[cfg(feature = "agent")]
mod of_the_agent {
    pub mod agent {
        pub use crate::agent::Agent;
    }
    pub mod api {
        pub use crate::api::serve;
    }
    pub mod auth {
        pub use crate::auth::{Files, Listeners, Role, ScreenLinks, Settings, Tls, needed};
        pub mod pki {
            pub use crate::auth::pki::Pki;
        }
    }
    pub mod boot {
        pub use crate::boot::{Platform, ZonedConverter, this_host_boot};
    }
    pub mod browser {
        pub use crate::browser::{Browser, serve};
    }
    pub mod config {
        pub use crate::config::{Config, Log, LogFormat};
    }
    pub mod doctor {
        pub use crate::doctor::{Verdict, examine};
    }
    pub mod hypervisor {
        pub use crate::hypervisor::{Hearing, MachineEvent, qemu, simulated};
    }
    pub mod image {
        pub use crate::image::{InThread, SUBCOMMAND, is_image, run};
    }
    pub mod metadata {
        pub use crate::metadata::{protocol, route};
    }
    pub mod model {
        pub use crate::model::{StopCause, StopPlan, Timestamp, VmRecord, WaitingCall};
    }
    pub mod network {
        pub use crate::network::{Lease, Tag, TagKind, dhcp, linux, simulated};
    }
    pub mod probe {
        pub use crate::probe::{ACTS, SUBCOMMAND, act, print, run, run_inside};
    }
    pub mod storage {
        pub use crate::storage::FileVolumes;
    }
    pub mod store {
        pub use crate::store::{Commit, Keep, Reader, Store, VmChange};
    }
    pub mod zone {
        pub use crate::zone::{
            Ended, Group, LOGGER, Zone, identity, launcher, linux, log, sandbox, simulated,
        };
    }
}
