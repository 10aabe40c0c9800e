//! The steps.

use std::{
    fs::{DirBuilder, File},
    io,
    net::IpAddr,
    os::{
        fd::OwnedFd,
        unix::{fs::DirBuilderExt as _, net::UnixListener},
    },
    path::Path,
    sync::Arc,
};

use tokio_util::task::AbortOnDropHandle;

use super::{BootFailure, BootRequest, Clock, Running, devices};
use crate::{
    console::{ConsoleEnds, VncEndpoint},
    crash,
    hypervisor::{Drive, Firmware, Hypervisor, Machine, MachinePlan, Nic, Setup},
    layout::short_socket_name,
    model::Phase,
    network::LinkError,
    spec::{BootOrder, Limits},
    zone::{Ended, Launch, Process},
};

/// A step's error; only its text is of interest.
type StepError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Zone,
    Disks,
    Nics,
    Hypervisor,
    Control,
    Display,
    Links,
    Run,
}

const PLAN: [Step; 8] = [
    Step::Zone,
    Step::Disks,
    Step::Nics,
    Step::Hypervisor,
    Step::Control,
    Step::Display,
    Step::Links,
    Step::Run,
];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Disks => "disks",
            Self::Nics => "nics",
            Self::Hypervisor => "hypervisor",
            Self::Control => "control",
            Self::Display => "display",
            Self::Links => "links",
            Self::Run => "run",
        }
    }

    /// Returns the phase that the step reaches.
    fn phase(self) -> Option<Phase> {
        Some(match self {
            Self::Zone => Phase::ZoneReady,
            Self::Disks => Phase::DisksReady,
            Self::Nics => Phase::NicsReady,
            Self::Hypervisor => Phase::HypervisorSpawned,
            Self::Control => Phase::ControlReady,
            Self::Display | Self::Links => return None,
            Self::Run => Phase::Running,
        })
    }
}

/// Boots a VM, or leaves nothing behind.
pub(crate) async fn boot(request: BootRequest<'_>, clock: Clock) -> Result<Running, BootFailure> {
    let mut boot = Boot { request, made: Made::default() };
    for (index, step) in PLAN.iter().enumerate() {
        crash::point(format_args!("boot.{}", step.name()));
        if let Err(error) = boot.act(*step).await {
            let (reason, out_of_memory) = boot.explain(error.to_string()).await;
            for step in PLAN[..=index].iter().rev() {
                boot.undo(*step).await;
                crash::point(format_args!("boot.{}.undone", step.name()));
            }
            let failure = BootFailure { step: step.name(), reason, out_of_memory };
            clock.reached(Phase::Failed { step: failure.step.to_owned(), reason: failure.reason.clone() });
            return Err(failure);
        }
        crash::point(format_args!("boot.{}.done", step.name()));
        if let Some(phase) = step.phase() {
            clock.reached(phase);
        }
    }
    boot.finish()
}

struct Boot<'a> {
    request: BootRequest<'a>,
    made: Made,
}

/// The results of the steps so far.
#[derive(Default)]
struct Made {
    ends: Option<ConsoleEnds>,
    control: Option<OwnedFd>,
    metadata: Option<OwnedFd>,
    firmware: Option<Firmware>,
    disks: Option<Result<Disks, StepError>>,
    drives: Vec<Drive>,
    seed: Option<File>,
    nics: Vec<Nic>,
    links: Option<AbortOnDropHandle<Result<(), LinkError>>>,
    setup: Setup,
    process: Option<Arc<dyn Process>>,
    machine: Option<Arc<dyn Machine>>,
    vnc: Option<VncEndpoint>,
    accelerator: String,
}

/// A machine's open drives, seed and firmware.
struct Disks {
    drives: Vec<Drive>,
    seed: Option<File>,
    firmware: Firmware,
}

impl Boot<'_> {
    async fn act(&mut self, step: Step) -> Result<(), StepError> {
        match step {
            Step::Zone => self.make_zone().await,
            Step::Disks => self.take_disks(),
            Step::Nics => self.plug().await,
            Step::Hypervisor => self.spawn().await,
            Step::Control => self.connect().await,
            Step::Display => self.open_display().await,
            Step::Links => self.enable_links().await,
            Step::Run => self.run().await,
        }
    }

    async fn undo(&mut self, step: Step) {
        match step {
            Step::Run => {}
            Step::Links => {}
            Step::Display => self.made.vnc = None,
            Step::Control => self.made.machine = None,
            Step::Hypervisor => self.kill().await,
            Step::Nics => self.unplug().await,
            Step::Disks => {
                self.made.drives.clear();
                (self.made.firmware, self.made.seed) = (None, None);
            }
            Step::Zone => {
                self.request.console.unwatch();
                (self.made.ends, self.made.disks) = (None, None);
                (self.made.control, self.made.metadata) = (None, None);
                if let Err(error) = tokio::fs::remove_dir_all(self.request.layout.run()).await {
                    tracing::debug!(%error, "the run directory could not be removed");
                }
            }
        }
    }

    /// Also opens the disks, because each wait for another thread takes its time; their result counts in
    /// their own step.
    async fn make_zone(&mut self) -> Result<(), StepError> {
        let BootRequest { platform, vm, layout, console, options, .. } = &self.request;
        let (platform, vm, layout) = ((*platform).clone(), (*vm).clone(), (*layout).clone());
        let (console, options, hypervisor) =
            ((*console).clone(), (*options).clone(), self.hypervisor().clone());
        let make = move || -> Result<_, StepError> {
            DirBuilder::new().mode(0o700).recursive(true).create(layout.run())?;
            let ends = console.open_for_boot()?;
            let sockets = (listen(&layout.control())?, listen(&layout.metadata())?);
            let open = || -> Result<Disks, StepError> {
                Ok(Disks {
                    drives: devices::open_drives(&platform, &vm.spec, &layout, &options, &vm.unsettled)?,
                    seed: devices::open_seed(&vm, &layout)?,
                    firmware: devices::open_firmware(&*hypervisor, &vm.spec, &layout)?,
                })
            };
            Ok((ends, sockets, open()))
        };
        let (ends, (control, metadata), disks) = tokio::task::spawn_blocking(make).await??;
        (self.made.ends, self.made.disks) = (Some(ends), Some(disks));
        (self.made.control, self.made.metadata) = (Some(control), Some(metadata));
        Ok(())
    }

    fn take_disks(&mut self) -> Result<(), StepError> {
        let Disks { drives, seed, firmware } = self.made.disks.take().ok_or("the zone was not made")??;
        (self.made.drives, self.made.seed, self.made.firmware) = (drives, seed, Some(firmware));
        Ok(())
    }

    /// Installing rules takes a while, so it runs while the hypervisor starts; until then no link is up.
    async fn plug(&mut self) -> Result<(), StepError> {
        let wiring = self.request.wiring();
        let links = self.request.platform.links.clone();
        self.made.nics = devices::plug_nics(&*links, &wiring).await?;
        let enable = tokio::spawn(async move { links.enable(&wiring).await });
        self.made.links = Some(AbortOnDropHandle::new(enable));
        Ok(())
    }

    async fn enable_links(&mut self) -> Result<(), StepError> {
        let enabled = self.made.links.take().ok_or("no link was made")?;
        Ok(enabled.await??)
    }

    fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        self.request.platform.hypervisor(self.request.vm.spec.brand())
    }

    async fn spawn(&mut self) -> Result<(), StepError> {
        let hypervisor = self.hypervisor().clone();
        let (vm, options) = (self.request.vm, self.request.options);
        let missing = || io::Error::other("an earlier step has no result");
        if let Some(fault) = devices::fault(&*hypervisor, &vm.spec).await {
            return Err(fault.into());
        }
        let (order, once) = devices::boot_order(&vm.spec, options)?;
        let largest_file = devices::largest_file(&vm.spec, &self.made.drives, self.made.firmware.as_ref());
        let plan = MachinePlan {
            uuid: vm.uuid,
            machine_type: vm.spec.machine_type.clone(),
            has_screen: vm.has_screen(),
            ram: vm.spec.ram(),
            vcpus: vm.spec.vcpus(),
            tuning: devices::tuning(&vm.spec),
            firmware: self.made.firmware.take().ok_or_else(missing)?,
            drives: std::mem::take(&mut self.made.drives),
            seed: self.made.seed.take(),
            nics: std::mem::take(&mut self.made.nics),
            order_is_given: once.is_some() || order != BootOrder::default(),
            order,
            once,
            control: self.made.control.take().ok_or_else(missing)?,
            metadata: self.made.metadata.take().ok_or_else(missing)?,
        };
        let program = hypervisor.program(plan).await?;
        let vnc_password = vm.vnc_password().map(str::to_owned);
        self.made.setup = Setup { vnc_password, ..program.setup };
        self.made.accelerator = program.accelerator.clone();
        let ends = self.made.ends.take().ok_or_else(missing)?;
        let launch = Launch {
            uuid: vm.uuid,
            index: vm.zone_index,
            limits: Limits::of(&vm.spec),
            largest_file,
            kvm: program.accelerator == "kvm",
            program: program.path,
            arguments: program.arguments,
            descriptors: program.descriptors,
            input: ends.input,
            output: ends.output,
            errors: ends.errors,
        };
        self.made.process = Some(self.request.platform.zone.spawn(self.request.layout, launch).await?);
        Ok(())
    }

    /// Connects to the hypervisor; one that can't start exits at once, which ends the wait.
    async fn connect(&mut self) -> Result<(), StepError> {
        let hypervisor = self.hypervisor().clone();
        let process = self.made.process.clone().ok_or("there is no process")?;
        let control = self.request.layout.control();
        let machine = tokio::select! {
            biased;
            ended = process.ended() => return Err(format!("the hypervisor ended at once ({ended})").into()),
            machine = hypervisor.attach(self.request.vm.uuid, &control, hypervisor.patience()) => machine?,
        };
        machine.set_up(&self.made.setup).await?;
        self.made.machine = Some(machine);
        Ok(())
    }

    async fn open_display(&mut self) -> Result<(), StepError> {
        let machine = self.made.machine.clone().ok_or("there is no machine")?;
        self.made.vnc = listen_vnc(self.request.vm, self.request.vnc_address, machine).await?;
        Ok(())
    }

    async fn run(&mut self) -> Result<(), StepError> {
        self.made.machine.as_ref().ok_or("there is no machine")?.resume().await?;
        Ok(())
    }

    async fn unplug(&mut self) {
        if let Some(enabling) = self.made.links.take() {
            // It must not act after its undo.
            enabling.abort();
            let _ = enabling.await;
        }
        self.made.nics.clear();
        if let Err(error) = self.request.platform.links.unplug(self.request.vm.uuid).await {
            tracing::warn!(%error, "the links of a failed boot could not be removed");
        }
    }

    async fn kill(&mut self) {
        if let Some(process) = self.made.process.take() {
            if let Err(error) = process.kill() {
                tracing::error!(%error, "the hypervisor of a failed boot can't be killed");
                return;
            }
            process.ended().await;
        }
        self.request.platform.zone.forget(self.request.vm.uuid, self.request.layout).await;
    }

    /// Adds the hypervisor's last words; also returns whether it ran out of memory.
    async fn explain(&self, mut reason: String) -> (String, bool) {
        if let Some(process) = &self.made.process {
            // A broken connection usually means that the process exits: wait for its last words.
            let ended = tokio::time::timeout(std::time::Duration::from_secs(1), process.ended()).await;
            if ended == Ok(Ended::OutOfMemory) {
                let limit = self.request.vm.spec.max_physical_memory.unwrap_or_default();
                let text = format!(
                    "the hypervisor needed more than max_physical_memory ({limit} MiB); raise it, or lower ram or vcpus"
                );
                return (text, true);
            }
            let said = self.request.console.last_words().await;
            let words = self.hypervisor().last_words(&said).words;
            if !words.is_empty() {
                reason = format!("{reason}; its last words: {words}");
            }
        }
        (reason, false)
    }

    fn finish(self) -> Result<Running, BootFailure> {
        let Made { process: Some(process), machine: Some(machine), vnc, accelerator, .. } = self.made else {
            let reason = "a step has no result".to_owned();
            return Err(BootFailure { step: "run", reason, out_of_memory: false });
        };
        Ok(Running { process, machine, vnc, accelerator })
    }
}

/// Opens a VM's VNC endpoint, unless it has none. Also reopens that of a running machine.
pub(crate) async fn listen_vnc(
    vm: &crate::model::VmRecord,
    address: IpAddr,
    machine: Arc<dyn Machine>,
) -> io::Result<Option<VncEndpoint>> {
    let port = u16::try_from(vm.spec.vnc_port.unwrap_or(0)).ok();
    let Some(port) = port.filter(|_| vm.has_screen()) else { return Ok(None) };
    let trusted = vm.vnc_password().is_none();
    let hand_over = move |socket| {
        let machine = machine.clone();
        async move { machine.add_vnc_client(socket, trusted).await.map_err(|error| error.to_string()) }
    };
    VncEndpoint::listen(address, port, vm.vnc_port, !trusted, hand_over).await.map(Some).map_err(|error| {
        io::Error::new(error.kind(), format!("the VNC endpoint {address}:{port} can't be opened: {error}"))
    })
}

/// Listens on a UNIX socket, which replaces one of an earlier boot.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, name) = short_socket_name(path)?;
    Ok(UnixListener::bind(name)?.into())
}
