//! The requests that callers make of VMs. Each change is a task that outlives its caller, runs once per
//! request id, and is carried out by the VM's actor.

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    agent::{
        Agent,
        context::command::{Command, Control, ReplyTo},
        error::Error,
        request::{
            call::{BootProgress, Call},
            reply::{DeleteReply, Reply, UpdateReply, VmReply},
        },
        vm::{create, signal::parse_signal, validation, verdict},
    },
    model::{StopCause, VmRecord},
    spec::{BootOptions, Note, Violation, defaults, machine_json::Parsed},
};

impl Agent {
    /// Returns everything that [`Self::create`] would report of a payload: its violations, and notes on its
    /// adjustments.
    pub async fn validate_payload(&self, parsed: Parsed) -> (Vec<Violation>, Vec<Note>) {
        let judged = match validation::read(&self.context, &parsed) {
            Ok(spec) => verdict::judge(&self.context, spec).await,
            Err(found) => Err(found),
        };
        match judged {
            Ok(adjusted) => (Vec::new(), parsed.notes.into_iter().chain(adjusted).collect()),
            Err(found) => (found, parsed.notes),
        }
    }

    /// Creates a VM; also returns notes on the payload and its adjustments.
    pub async fn create(
        &self,
        call: Call,
        parsed: Parsed,
        validate_only: bool,
    ) -> Result<(VmRecord, Vec<Note>), Error> {
        let spec = validation::read(&self.context, &parsed).map_err(Error::Invalid)?.clone();
        let vm = create::create(&self.context, call, spec, validate_only).await?;
        let adjusted = defaults::adjusted(&parsed.spec, &vm.spec);
        Ok((vm, parsed.notes.into_iter().chain(adjusted).collect()))
    }

    /// Starts a VM; `progress` receives the phases.
    pub async fn start_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        options: BootOptions,
        progress: BootProgress,
    ) -> Result<VmReply, Error> {
        let invalid = options.check(self.vm(uuid)?.spec.brand());
        if !invalid.is_empty() {
            return Err(Error::Invalid(invalid));
        }
        self.command(call, uuid, move |call, reply| Command::Start { call, etag, options, progress, reply })
            .await
    }

    /// Stops a VM: by the power button and, after `timeout_seconds`, by force; or by force at once.
    pub async fn stop_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        force: bool,
        timeout_seconds: u32,
    ) -> Result<VmReply, Error> {
        self.command(call, uuid, move |call, reply| Command::Stop {
            call,
            etag,
            force,
            timeout_seconds,
            cause: StopCause::Operator,
            reply,
        })
        .await
    }

    /// Stops a VM and starts it again; or presses reset.
    pub async fn reboot_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        force: bool,
    ) -> Result<VmReply, Error> {
        self.command(call, uuid, move |call, reply| Command::Reboot { call, etag, force, reply }).await
    }

    /// Changes a VM by vmadm's update payload, in which lists may be whole.
    pub async fn update_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        (payload, replace_lists): (Map<String, Value>, bool),
        validate_only: bool,
    ) -> Result<UpdateReply, Error> {
        self.command(call, uuid, move |call, reply| Command::Update {
            call,
            etag,
            payload,
            replace_lists,
            validate_only,
            reply,
        })
        .await
    }

    /// Sends a signal to a VM's hypervisor; returns the signal name.
    pub async fn kill_vm(&self, call: Call, uuid: Uuid, etag: String, signal: &str) -> Result<String, Error> {
        let signal = if signal.is_empty() { "TERM" } else { signal };
        let (name, signal) = parse_signal(signal)?;
        self.control(call, uuid, etag, Control::Kill(signal)).await?;
        Ok(name)
    }

    /// Interrupts a guest.
    pub async fn inject_nmi(&self, call: Call, uuid: Uuid, etag: String) -> Result<VmReply, Error> {
        self.control(call, uuid, etag, Control::Nmi).await
    }

    /// Wakes a guest's screen and leaves a picture of it in the zone.
    pub async fn sysrq_screenshot(&self, call: Call, uuid: Uuid, etag: String) -> Result<VmReply, Error> {
        self.control(call, uuid, etag, Control::Screenshot).await
    }

    /// Halts a guest.
    pub async fn pause_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<VmReply, Error> {
        self.control(call, uuid, etag, Control::Pause).await
    }

    /// Resumes a halted guest.
    pub async fn resume_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<VmReply, Error> {
        self.control(call, uuid, etag, Control::Resume).await
    }

    /// Inserts `path` into the drive that `drive` names; an empty `path` ejects its medium.
    pub async fn change_media(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        drive: String,
        path: String,
    ) -> Result<VmReply, Error> {
        self.control(call, uuid, etag, Control::Media { drive, path }).await
    }

    async fn control(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        control: Control,
    ) -> Result<VmReply, Error> {
        self.command(call, uuid, move |call, reply| Command::Control { call, etag, control, reply }).await
    }

    /// Removes a VM and its disks.
    pub async fn delete_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<DeleteReply, Error> {
        self.command(call, uuid, move |call, reply| Command::Delete { call, etag, reply }).await
    }

    /// Queues a command with the VM's actor, as a task that outlives the caller.
    async fn command<T: Reply>(
        &self,
        call: Call,
        uuid: Uuid,
        command: impl FnOnce(Call, ReplyTo<T>) -> Command + Send + 'static,
    ) -> Result<T, Error> {
        let registry = self.context.registry.clone();
        let work = move |call| async move { registry.get(uuid)?.ask(|reply| command(call, reply)).await };
        self.context.once(call, work).await
    }
}
