//! A VM's turn to be started with its host.
//!
//! ```text
//!   record.host_boot is        the VM is            then it is
//!   this boot                  anything             left alone: it had its turn
//!   another                    stopped, autoboot    started; the commit that says how that ended gives it this
//!                                                   boot. A VM that was made to be started at once has an empty
//!                                                   one until then
//!   another, or none           anything else        given this boot, so that a later change of autoboot
//!                                                   does not start it when the agent is restarted
//! ```

use crate::{agent::context::VmContext, model::VmRecord, spec::VmState};

/// The value of `host_boot` in a VM's record after one interrupted start.
const SECOND_TRY: &str = "second try";

/// Whether the VM's turn has come.
pub(in crate::agent) fn is_due(context: &VmContext, vm: &VmRecord) -> bool {
    is_another_boot(context, vm)
        && vm.state == VmState::Stopped
        && vm.spec.autoboot()
        && context.settings.autoboot_parallel > 0
}

/// Returns whether its turn passes without a start. Noted without an event: nothing visible changes.
pub(super) fn passes_over(context: &VmContext, vm: &VmRecord) -> bool {
    vm.host_boot.as_ref() != Some(&context.platform.host_boot) && !is_due(context, vm)
}

/// Notes that a start of this VM was interrupted: it gets one more try, but no third one, because it may be
/// what kills the agent.
pub(super) fn try_again(context: &VmContext, vm: &mut VmRecord) {
    let this = &context.platform.host_boot;
    let next = if vm.host_boot.as_deref() == Some(SECOND_TRY) { this } else { SECOND_TRY };
    if is_another_boot(context, vm) {
        vm.host_boot = Some(next.to_owned());
    }
}

/// Whether the record names another boot of the host. Records of agents that had no autoboot name none: an upgrade
/// starts nothing.
fn is_another_boot(context: &VmContext, vm: &VmRecord) -> bool {
    vm.host_boot.as_ref().is_some_and(|boot| *boot != context.platform.host_boot)
}
