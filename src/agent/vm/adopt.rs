//! The first command of a VM that is older than its agent: reconciles its record with the facts of the host.

use std::sync::Arc;

use tokio::{sync::oneshot, time::timeout};

use crate::{
    agent::{
        context::{
            VmContext,
            command::Command,
            findings::{Findings, PATIENCE, Remains},
        },
        error::Error,
        files::{journal, uploads},
        request::{call::Call, reply::VmReply},
        vm::{Actor, disks, ended::stop_result, exit, live::Live, seat::Seat, start::runs, turn},
    },
    boot,
    hypervisor::{GuestStatus, Machine},
    model::{EventKind, Phase, VmRecord, WaitingCall},
    spec::{Limits, VmState},
    storage,
    zone::{Ended, Process},
};

impl Actor {
    /// Starts the actor of a VM that an earlier agent left; returns when its state is known.
    pub(in crate::agent) async fn adopt(context: &VmContext, record: VmRecord, findings: Findings) {
        let (handle, seat) = Seat::prepare(context, &record);
        context.registry.insert(handle);
        let (done, known) = oneshot::channel();
        Self::spawn(context, seat, record, Some(Command::Adopt { findings: Box::new(findings), done }));
        // An actor that exits with the agent sends nothing.
        let _ = known.await;
    }

    pub(super) async fn on_adoption(&mut self, findings: Findings) {
        let written = self.record.generation;
        if let Err(error) = Box::pin(self.make_true(findings)).await {
            // The state can't be committed, but the VM exists: it is left alone.
            tracing::error!(%error, "the adopted state could not be committed; the VM is lost");
            self.live = Live::default();
            self.record.stop = self.record.stop.take().filter(|_| self.record.state != VmState::Starting);
            self.record.state = VmState::Lost;
        }
        self.settle().await;
        if self.record.generation == written {
            // No commit has written `vm.json`.
            self.context.write_vm_json(&self.record).await;
        }
        self.published.send_replace(Arc::new(self.record.clone()));
    }

    async fn make_true(&mut self, Findings { hypervisor, has_links }: Findings) -> Result<(), Error> {
        match hypervisor {
            Remains::Nothing => {
                // An agent that died while it handled the end of the process may have left some of its resources.
                self.give_back(has_links).await;
                Ok(())
            }
            Remains::Gone(ended) => self.was_over(ended, has_links).await,
            Remains::Silent { process, why } => self.lose(process, &why).await,
            // It never ran guest code; nothing is lost.
            Remains::Answers { process, status, .. }
                if self.record.state == VmState::Starting && !status.running =>
            {
                process.kill().map_err(Error::internal)?;
                match timeout(PATIENCE, process.ended()).await {
                    Ok(_) => self.was_over(Ended::Unseen, true).await,
                    Err(_) => self.lose(Some(process), "it does not end").await,
                }
            }
            Remains::Answers { process, machine, status, accelerator } => {
                self.take_over(process, machine, status, accelerator).await
            }
        }
    }

    async fn take_over(
        &mut self,
        process: Arc<dyn Process>,
        machine: Arc<dyn Machine>,
        status: GuestStatus,
        accelerator: &str,
    ) -> Result<(), Error> {
        // The adoption has set its password.
        self.listen_vnc(&machine).await;
        let state = match self.record.state {
            VmState::Stopping => VmState::Stopping,
            VmState::Lost if self.record.stop.is_some() => VmState::Stopping,
            _ => status.state(),
        };
        let options = self.record.boot.as_ref().map(|boot| boot.options.clone());
        let run = self.run_of(&*process, &*machine, accelerator, &options.unwrap_or_default());
        let (resets, last_reset) = exit::unseen_resets(&self.context, &self.record);
        let (mut calls, mut events) = (Vec::new(), Vec::new());
        let mut vm = self.record.clone();
        if vm.state == VmState::Starting {
            // A start, or the second half of a reboot, has completed.
            calls.append(&mut vm.waiting);
            calls.extend(vm.stop.take().into_iter().flat_map(|stop| stop.calls));
            events.extend(vm.boot.as_ref().map(|boot| {
                let phase = boot::phase_at(boot.called_us, Phase::Running);
                Call::of_boot(boot).event(vm.uuid, EventKind::Boot(phase))
            }));
            runs(&mut vm, run, &self.context.platform.host_boot);
        } else {
            vm.machine.get_or_insert(run);
        }
        (vm.state, vm.vnc_port) = (state, self.vnc_port());
        if let Some(run) = &mut vm.machine {
            // The current values, not those of an earlier agent.
            machine.hypervisor().clone_into(&mut run.hypervisor);
            run.enforcements = process.enforcements().to_vec();
            run.limits = process.bound(&Limits::of(&vm.spec));
            run.resets += resets;
            run.last_reset = last_reset.or(run.last_reset);
        }
        if let Some(time) = last_reset.filter(|_| state != VmState::Failed) {
            vm.exit = Some(exit::reset(true, time));
        }
        let (process_id, vnc) = (process.pid(), self.live.vnc.take());
        self.write_down(vm, events, calls, |vm, _| Ok(VmReply::of(vm))).await?;
        self.live = Live::adopted(process, Some(machine), vnc);
        tracing::info!(pid = process_id, %state, "adopted");
        Ok(())
    }

    /// Handles a hypervisor that exited while no agent ran. The second half of a reboot runs later, and
    /// answers its calls.
    async fn was_over(&mut self, ended: Ended, has_links: bool) -> Result<(), Error> {
        let exit = exit::exit(&self.context, &self.record, ended, None, true);
        let again = self.record.stop.as_ref().is_some_and(|stop| stop.then_start);
        let calls = self.record.stop.clone().filter(|_| !again).map(|stop| stop.calls).unwrap_or_default();
        let context = self.context.clone();
        // An interrupted start is undone; a repeated request starts the VM again.
        let vm = self.after(exit, again, |vm| turn::try_again(&context, vm));
        self.write_down(vm, Vec::new(), calls, |vm, call| stop_result(vm, call.reboots)).await?;
        // Only after the exit is committed: these resources record it.
        self.give_back(has_links).await;
        disks::settle(&self.context, &self.record).await;
        Ok(())
    }

    async fn lose(&mut self, process: Option<Arc<dyn Process>>, why: &str) -> Result<(), Error> {
        tracing::error!(why, "lost: the hypervisor is left alone");
        let mut vm = self.record.clone();
        // If it is found again, it counts as started.
        vm.stop = vm.stop.take().filter(|_| vm.state != VmState::Starting);
        vm.state = VmState::Lost;
        let nobody = |vm: &VmRecord, _: &WaitingCall| Ok(VmReply::of(vm));
        self.write_down(vm, Vec::new(), Vec::new(), nobody).await?;
        self.live = process.map(|process| Live::adopted(process, None, None)).unwrap_or_default();
        Ok(())
    }

    /// Commits the changed record, with the answers to `calls`; does nothing if it is unchanged.
    async fn write_down(
        &mut self,
        vm: VmRecord,
        events: Vec<crate::model::NewEvent>,
        calls: Vec<WaitingCall>,
        answer: impl Fn(&VmRecord, &WaitingCall) -> Result<VmReply, Error>,
    ) -> Result<(), Error> {
        let same =
            VmRecord { generation: self.record.generation, modified: self.record.modified, ..vm.clone() };
        if same == self.record {
            return Ok(());
        }
        let vm = self.changed(|next| *next = vm);
        let answers: Vec<_> = calls
            .into_iter()
            .filter_map(|call| Call::from_waiting(call.clone()).answer(&answer(&vm, &call)))
            .collect();
        self.commit(&Call::own(), vm, events, answers).await
    }

    /// Releases a process's host resources.
    async fn give_back(&self, has_links: bool) {
        self.context.platform.zone.forget(self.record.uuid, &self.layout).await;
        if has_links {
            self.unplug().await;
        }
    }

    /// Finishes an earlier agent's other work on the VM.
    async fn settle(&mut self) {
        if turn::passes_over(&self.context, &self.record) {
            let this = self.context.platform.host_boot.clone();
            if let Err(error) = self.note(|vm| vm.host_boot = Some(this)).await {
                tracing::error!(%error, "the next agent start decides again on its autoboot");
            }
        }
        self.settle_disks().await;
        self.rename_disks().await;
        uploads::settle(&self.context, self.record.uuid).await;
        if let Err(error) = journal::settle(&self.context, self.record.uuid, &Call::own()).await {
            tracing::warn!(%error, "some file changes could not be journaled yet");
        }
        // Checked when it was given.
        let (uuid, spec) = (self.record.uuid, &self.record.spec);
        self.context.claims.put(uuid, spec, self.record.running_nics());
    }

    /// Removes disks that an interrupted update left, and cuts those that it shrank.
    async fn settle_disks(&mut self) {
        if self.record.unsettled.is_empty() {
            return;
        }
        let uncut = match self.record.state {
            VmState::Stopped => self.cut_disks().await,
            _ => Vec::new(),
        };
        let (layout, leftover) = (self.layout.clone(), self.record.leftover_disks());
        let removed = tokio::task::spawn_blocking(move || storage::remove_disks(&layout, &leftover)).await;
        match removed.map_err(Error::internal).and_then(|removed| Ok(removed?)) {
            Ok(()) => self.record.unsettled = uncut,
            Err(error) => tracing::warn!(%error, "disks of an interrupted update could not be removed"),
        }
    }
}
