//! A hypervisor without a guest, for tests of everything above and for load.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use uuid::Uuid;

use super::{
    Description, Firmware, GuestStatus, Hearing, Hypervisor, HypervisorError, InfoType, LastWords, Machine,
    MachineEvent, MachinePlan, Medium, Picture, Program, Said, Setup,
};
use crate::spec::{Bootrom, Brand, Violation, VmSpec};

/// The process of a VM, as far as its machine is concerned. Wired to the simulated zone by the creator of
/// both.
#[async_trait]
pub trait SimulatedProcess: Send + Sync {
    /// Ends the process of a VM, as a guest that powers itself off does.
    fn end(&self, uuid: Uuid);
    /// Waits until the process of a VM is gone.
    async fn gone(&self, uuid: Uuid);
}

/// Machines that only pretend.
#[derive(Clone)]
pub struct SimulatedHypervisor {
    brand: Brand,
    machines: Arc<Mutex<HashMap<Uuid, Arc<Knobs>>>>,
    faults: Arc<Mutex<Faults>>,
    processes: Arc<dyn SimulatedProcess>,
}

impl std::fmt::Debug for SimulatedHypervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedHypervisor").finish_non_exhaustive()
    }
}

/// Injected faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// No control connection.
    pub attach: bool,
    /// The guest can't be resumed.
    pub resume: bool,
    /// Guests ignore the power button.
    pub deaf: bool,
    /// The guest's answer about the power button.
    pub hearing: Option<Hearing>,
    /// The hypervisor has stopped its guest, in this status.
    pub stopped: Option<&'static str>,
}

#[derive(Debug)]
struct Knobs {
    events: mpsc::Sender<MachineEvent>,
    received: AsyncMutex<mpsc::Receiver<MachineEvent>>,
    done: Mutex<Vec<String>>,
    /// Stay connected until the machine is forgotten.
    viewers: Mutex<Vec<OwnedFd>>,
    /// The guest's second serial port.
    metadata: Mutex<Option<OwnedFd>>,
}

impl SimulatedHypervisor {
    /// Machines of these processes.
    pub fn new(processes: impl SimulatedProcess + 'static) -> Self {
        Self {
            brand: Brand::Kvm,
            machines: Arc::default(),
            faults: Arc::default(),
            processes: Arc::new(processes),
        }
    }

    /// The same machines and faults, for another brand.
    #[must_use]
    pub fn of(&self, brand: Brand) -> Self {
        Self { brand, ..self.clone() }
    }

    /// Changes the injected faults.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// Sends an event as the machine.
    pub async fn tell(&self, uuid: Uuid, event: MachineEvent) {
        let knobs = self.knobs(uuid);
        let _ = knobs.events.send(event).await;
    }

    /// Returns what was done to a VM's machine, in words.
    #[must_use]
    pub fn done(&self, uuid: Uuid) -> Vec<String> {
        lock(&self.knobs(uuid).done).clone()
    }

    /// The listening end of a guest's second serial port.
    #[must_use]
    pub fn metadata_port(&self, uuid: Uuid) -> Option<OwnedFd> {
        lock(&self.knobs(uuid).metadata).as_ref().and_then(|port| port.try_clone().ok())
    }

    fn knobs(&self, uuid: Uuid) -> Arc<Knobs> {
        lock(&self.machines)
            .entry(uuid)
            .or_insert_with(|| {
                let (events, received) = mpsc::channel(16);
                Arc::new(Knobs {
                    events,
                    received: AsyncMutex::new(received),
                    done: Mutex::default(),
                    viewers: Mutex::default(),
                    metadata: Mutex::default(),
                })
            })
            .clone()
    }
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    async fn describe(&self) -> Description {
        let machine_types = vec![format!("{}7.2", self.brand.machine_family())];
        let word = || "simulated".to_owned();
        Description {
            version: word(),
            accelerator: "tcg".into(),
            reason: word(),
            text: word(),
            machine_types,
        }
    }

    async fn faults(&self, spec: &VmSpec) -> Vec<Violation> {
        super::bhyves_arguments(spec).into_iter().collect()
    }

    fn settle_firmware(&self, _: &Bootrom, _vars: &Path) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn open_firmware(&self, bootrom: &Bootrom, _vars: &Path) -> Result<Firmware, HypervisorError> {
        let null = || File::open("/dev/null").map_err(HypervisorError::at("opening /dev/null"));
        if *bootrom == Bootrom::Bios {
            return Ok(Firmware::Bios);
        }
        Ok(Firmware::Uefi { code: null()?, vars: null()? })
    }

    fn last_words(&self, text: &str) -> LastWords {
        let event = |word: &str| match word {
            "panic" => MachineEvent::Panicked,
            "reset" => MachineEvent::Reset { guest: true },
            reason => {
                MachineEvent::Shutdown { guest: reason.starts_with("guest"), reason: reason.to_owned() }
            }
        };
        let said =
            |line: &str| Some(Said { time: SystemTime::now(), event: event(line.strip_prefix("said: ")?) });
        LastWords { said: text.lines().filter_map(said).collect(), words: text.to_owned() }
    }

    async fn program(&self, plan: MachinePlan) -> Result<Program, HypervisorError> {
        *lock(&self.knobs(plan.uuid).metadata) = Some(plan.metadata);
        // The plan in words, for tests to check.
        let mut arguments = vec![
            format!("ram={}", plan.ram),
            format!("vcpus={}", plan.vcpus),
            format!("firmware={}", if matches!(plan.firmware, Firmware::Bios) { "bios" } else { "uefi" }),
            format!(
                "machine={} screen={}",
                plan.machine_type.as_deref().unwrap_or("newest"),
                plan.has_screen
            ),
            format!("order={}", plan.order),
            format!("once={}", plan.once.map(|once| once.to_string()).unwrap_or_default()),
        ];
        arguments.extend(plan.drives.iter().map(|drive| {
            format!(
                "drive={},{},{},boot={}",
                drive.path,
                drive.model.as_str(),
                drive.media.as_str(),
                drive.boot
            )
        }));
        let tuning = &plan.tuning;
        for (name, value) in [
            ("cpu_type", tuning.cpu_type.clone()),
            ("vga", tuning.vga.clone()),
            ("on_panic", tuning.on_panic.clone().filter(|word| word != "none")),
            ("virtio_txtimer", tuning.virtio_txtimer.map(|n| n.to_string())),
            ("virtio_txburst", tuning.virtio_txburst.map(|n| n.to_string())),
            ("qemu_opts", tuning.options.clone()),
            ("qemu_extra_opts", tuning.extra_options.clone()),
            ("vnc_password", tuning.vnc_password.clone()),
        ] {
            arguments.extend(value.map(|value| format!("{name}={value}")));
        }
        arguments.extend(plan.nics.iter().map(|nic| format!("nic={},{}", nic.mac, nic.model.as_str())));
        Ok(Program {
            path: "/simulated".into(),
            arguments,
            descriptors: Vec::new(),
            setup: Setup::default(),
            accelerator: "tcg".into(),
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn attach(
        &self,
        uuid: Uuid,
        _control: &Path,
        _patience: Duration,
    ) -> Result<Arc<dyn Machine>, HypervisorError> {
        if lock(&self.faults).attach {
            return Err(HypervisorError::Gone);
        }
        Ok(Arc::new(SimulatedMachine { uuid, knobs: self.knobs(uuid), host: self.clone() }))
    }
}

#[derive(Debug)]
struct SimulatedMachine {
    uuid: Uuid,
    knobs: Arc<Knobs>,
    host: SimulatedHypervisor,
}

impl SimulatedMachine {
    fn done(&self, what: &str) -> Result<(), HypervisorError> {
        lock(&self.knobs.done).push(what.to_owned());
        Ok(())
    }
}

#[async_trait]
impl Machine for SimulatedMachine {
    fn hypervisor(&self) -> &str {
        "simulated"
    }

    async fn set_up(&self, _setup: &Setup) -> Result<(), HypervisorError> {
        Ok(())
    }

    async fn pause(&self) -> Result<(), HypervisorError> {
        self.done("pause")
    }

    async fn inject_nmi(&self) -> Result<(), HypervisorError> {
        self.done("nmi")
    }

    async fn send_break(&self) -> Result<(), HypervisorError> {
        self.done("break")
    }

    async fn wake_screen(&self) -> Result<(), HypervisorError> {
        self.done("wake")
    }

    async fn change_medium(&self, drive: &str, medium: Option<Medium>) -> Result<(), HypervisorError> {
        self.done(&format!("{} {drive}", if medium.is_some() { "insert" } else { "eject" }))
    }

    async fn set_vnc_password(&self, password: Option<&str>) -> Result<(), HypervisorError> {
        self.done(&format!("password {}", password.unwrap_or("-")))
    }

    async fn resume(&self) -> Result<(), HypervisorError> {
        if lock(&self.host.faults).resume {
            return Err(HypervisorError::Refused { command: "cont".into(), message: "simulated".into() });
        }
        Ok(())
    }

    async fn listens_to_power_button(&self) -> Result<Hearing, HypervisorError> {
        Ok(lock(&self.host.faults).hearing.unwrap_or(Hearing::Unknown))
    }

    async fn wake(&self) -> Result<(), HypervisorError> {
        self.done("wakeup")
    }

    async fn press_power_button(&self) -> Result<(), HypervisorError> {
        self.done("power button")?;
        if !lock(&self.host.faults).deaf {
            let event = MachineEvent::Shutdown { guest: true, reason: "guest-shutdown".into() };
            let _ = self.knobs.events.send(event).await;
            self.host.processes.end(self.uuid);
        }
        Ok(())
    }

    async fn reset(&self) -> Result<(), HypervisorError> {
        let _ = self.knobs.events.send(MachineEvent::Reset { guest: false }).await;
        Ok(())
    }

    async fn status(&self) -> Result<GuestStatus, HypervisorError> {
        let stopped = lock(&self.host.faults).stopped;
        Ok(GuestStatus { running: stopped.is_none(), status: stopped.unwrap_or("running").into() })
    }

    async fn info(&self, kind: InfoType) -> Result<Value, HypervisorError> {
        Ok(match kind {
            InfoType::Status => json!({"running": true, "singlestep": false, "hwsetup": true}),
            _ => json!({}),
        })
    }

    async fn screenshot(&self, form: Picture) -> Result<Vec<u8>, HypervisorError> {
        Ok(match form {
            Picture::Png => b"\x89PNG simulated".to_vec(),
            Picture::Ppm => b"P6\n1 1\n255\nsim".to_vec(),
        })
    }

    async fn add_vnc_client(&self, socket: OwnedFd, trusted: bool) -> Result<(), HypervisorError> {
        self.done(if trusted { "viewer trusted" } else { "viewer asked" })?;
        rustix::io::write(&socket, b"RFB 003.008\n").map_err(HypervisorError::at("greeting"))?;
        lock(&self.knobs.viewers).push(socket);
        Ok(())
    }

    async fn next_event(&self) -> Option<MachineEvent> {
        let mut received = self.knobs.received.lock().await;
        tokio::select! {
            biased;
            event = received.recv() => event,
            () = self.host.processes.gone(self.uuid) => {
                // A process that ends takes its sockets with it.
                lock(&self.knobs.viewers).clear();
                None
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
