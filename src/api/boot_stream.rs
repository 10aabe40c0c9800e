//! The stream of a boot: its phases as they are reached, then the VM.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::{status::status, vms::Vms};
use crate::{
    agent::{Error, VmReply},
    model::BootPhase,
    proto::{
        Sight, phase,
        v1::{self, start_vm_response},
    },
};

pub(super) type PhaseStream = Pin<Box<dyn Stream<Item = Result<v1::StartVmResponse, Status>> + Send>>;

type Items = mpsc::Sender<Result<v1::StartVmResponse, Status>>;

fn phase_item(reached: &BootPhase) -> v1::StartVmResponse {
    v1::StartVmResponse { item: Some(start_vm_response::Item::Phase(phase(reached))) }
}

/// Forwards phases as they arrive; returns their number.
pub(super) async fn send_phases(mut phases: mpsc::Receiver<BootPhase>, items: Items) -> usize {
    let mut told = 0;
    while let Some(phase) = phases.recv().await {
        // A client that left does not stop the boot.
        let _ = items.send(Ok(phase_item(&phase))).await;
        told += 1;
    }
    told
}

impl Vms {
    /// Sends the last items; for a repeated request also the phases of the first run.
    pub(super) async fn send_outcome(
        &self,
        outcome: Result<VmReply, Error>,
        told: usize,
        sight: Sight,
        items: &Items,
    ) {
        match outcome {
            Ok(VmReply { vm, phases, .. }) => {
                for phase in phases.iter().skip(told) {
                    let _ = items.send(Ok(phase_item(phase))).await;
                }
                let item = Some(start_vm_response::Item::Vm(self.vm(&vm, sight)));
                let _ = items.send(Ok(v1::StartVmResponse { item })).await;
            }
            Err(error) => {
                let _ = items.send(Err(status(error))).await;
            }
        }
    }
}
