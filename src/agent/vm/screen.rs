//! The VNC endpoint of a machine that runs.

use std::sync::Arc;

use crate::{
    agent::{
        error::Error,
        vm::{Actor, patience::patient},
    },
    boot,
    hypervisor::Machine,
    model::VmRecord,
};

/// Fails if the VM has no screen.
pub(in crate::agent) fn check(vm: &VmRecord) -> Result<(), Error> {
    if vm.has_screen() {
        return Ok(());
    }
    let message = "the VM has no screen, because its vnc_port was -1 when it was started; set vnc_port to 0 and start it again";
    Err(Error::WrongState { uuid: vm.uuid, state: vm.state, message: message.to_owned() })
}

impl Actor {
    /// Closes the VNC endpoint and frees its port.
    pub(super) async fn close_vnc(&mut self) {
        if let Some(endpoint) = self.live.vnc.take() {
            endpoint.close().await;
        }
    }

    /// Opens the VNC endpoint as the spec now requires.
    pub(super) async fn open_vnc(&mut self, machine: &Arc<dyn Machine>) {
        if let Err(error) = patient(machine.set_vnc_password(self.record.vnc_password())).await {
            tracing::warn!(%error, "the VNC password could not be set");
        }
        self.listen_vnc(machine).await;
    }

    /// Opens it when the password is already set.
    pub(super) async fn listen_vnc(&mut self, machine: &Arc<dyn Machine>) {
        let address = self.context.settings.vnc_address;
        match boot::listen_vnc(&self.record, address, machine.clone()).await {
            Ok(endpoint) => self.live.vnc = endpoint,
            Err(error) => tracing::error!(%error, "the VNC endpoint could not be opened"),
        }
    }

    /// The endpoint's TCP port.
    pub(super) fn vnc_port(&self) -> Option<u16> {
        self.live.vnc.as_ref().map(|vnc| vnc.address().port())
    }
}
