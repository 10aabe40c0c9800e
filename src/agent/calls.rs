//! What callers can ask of VMs. Each change is a task that outlives its caller, done once for each request
//! id, and carried out by the VM's actor.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Agent,
    actor::{
        self, Command,
        control::{Control, parse_signal},
    },
    call::{BootProgress, Call},
    completion, create,
    error::Error,
    links,
    reply::{DeleteReply, Reply, UpdateReply, VmReply},
};
use crate::{
    model::{StopCause, VmRecord},
    spec::machine_json::Parsed,
    spec::{BootOptions, Note, Violation, VmSpec, defaults, validate},
};

impl Agent {
    /// Everything that is wrong with a machine, as [`Self::create`] finds it: with the payload, and with the machine that
    /// it becomes. On success gives what becomes of it that was not asked for.
    pub async fn validate(&self, spec: &VmSpec) -> Result<Vec<Note>, Vec<Violation>> {
        let found: Vec<_> = validate::check(spec).into_iter().chain(self.violations_of_host(spec)).collect();
        if !found.is_empty() {
            return Err(found);
        }
        let mut whole = spec.clone();
        completion::complete(self, spec.uuid.unwrap_or_else(Uuid::new_v4), &mut whole);
        let found = self.violations_of_whole(&whole).await;
        if found.is_empty() { Ok(defaults::adjusted(spec, &whole)) } else { Err(found) }
    }

    /// What is wrong with a complete machine that is new.
    async fn violations_of_whole(&self, spec: &VmSpec) -> Vec<Violation> {
        let mut found = validate::check_whole(spec);
        found.extend(validate::outgrown(spec, None));
        if let Some(hypervisor) = spec.brand.and_then(|brand| self.inner.platform.hypervisor(brand)) {
            found.extend(hypervisor.faults(spec).await);
        }
        found
    }

    /// What is wrong with a machine on this host alone.
    #[must_use]
    pub fn violations_of_host(&self, spec: &VmSpec) -> Vec<Violation> {
        links::violations(self, spec)
    }

    /// Everything that [`Self::create`] would say of a payload: what is wrong, or what becomes of it that was not asked for.
    pub async fn validate_payload(&self, parsed: Parsed) -> (Vec<Violation>, Vec<Note>) {
        let judged = match self.read(&parsed) {
            Ok(spec) => self.validate(spec).await,
            Err(found) => Err(found),
        };
        match judged {
            Ok(adjusted) => (Vec::new(), parsed.notes.into_iter().chain(adjusted).collect()),
            Err(found) => (found, parsed.notes),
        }
    }

    /// The machine that a payload says, unless something is wrong with the payload by itself.
    fn read<'p>(&self, parsed: &'p Parsed) -> Result<&'p VmSpec, Vec<Violation>> {
        let mut found = parsed.all_violations();
        if found.is_empty() {
            return Ok(&parsed.spec);
        }
        found.extend(self.violations_of_host(&parsed.spec));
        Err(found)
    }

    /// Makes a VM; says too what became of the payload that was not asked for.
    pub async fn create(
        &self,
        call: Call,
        parsed: Parsed,
        validate_only: bool,
    ) -> Result<(VmRecord, Vec<Note>), Error> {
        let spec = self.read(&parsed).map_err(Error::Invalid)?.clone();
        let vm = create::create(self, call, spec, validate_only).await?;
        let adjusted = defaults::adjusted(&parsed.spec, &vm.spec);
        Ok((vm, parsed.notes.into_iter().chain(adjusted).collect()))
    }

    /// Starts a VM; `progress` hears of the phases.
    pub async fn start_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        options: BootOptions,
        progress: BootProgress,
    ) -> Result<VmReply, Error> {
        let invalid = options.check();
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

    /// Changes a VM by vmadm's update payload.
    pub async fn update_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        payload: Map<String, Value>,
        validate_only: bool,
    ) -> Result<UpdateReply, Error> {
        self.command(call, uuid, move |call, reply| Command::Update {
            call,
            etag,
            payload,
            validate_only,
            reply,
        })
        .await
    }

    /// Sends a signal to a VM's hypervisor; gives its name.
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

    /// Lets a halted guest go on.
    pub async fn resume_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<VmReply, Error> {
        self.control(call, uuid, etag, Control::Resume).await
    }

    /// Puts `path` into the drive that has `drive`; an empty `path` takes out what is in it.
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
    pub(super) async fn command<T: Reply>(
        &self,
        call: Call,
        uuid: Uuid,
        command: impl FnOnce(Call, actor::ReplyTo<T>) -> Command + Send + 'static,
    ) -> Result<T, Error> {
        let agent = self.clone();
        self.once(call, move |call| async move {
            let handle = agent.inner.registry.get(uuid)?;
            let (reply, answer) = tokio::sync::oneshot::channel();
            handle.send(command(call, reply))?;
            answer.await.map_err(|_| agent.unanswered(uuid))?
        })
        .await
    }

    /// Why a VM's actor left a command without an answer: it ends with the agent, or with its VM.
    pub(super) fn unanswered(&self, uuid: Uuid) -> Error {
        if self.inner.stopping.is_cancelled() { Error::Stopping } else { Error::VmNotFound { uuid } }
    }

    /// Runs a mutation as a tracked task, once for each request id.
    pub(super) async fn once<T: Reply, F>(
        &self,
        call: Call,
        work: impl FnOnce(Call) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        if self.inner.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        self.inner.requests.once(&self.inner.tasks, call, work).await
    }
}
