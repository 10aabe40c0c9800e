//! Paths on the host. Every name derives from a VM's UUID, so that the remains of a crash can be found again.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// The agent's folders.
///
/// ```text
/// <zones_dir>/<uuid>/            zonepath
///     root/                      the hypervisor's /; untrusted
///     disk0                      reachable by the hypervisor only as a descriptor
///     console.log                the serial console's output, offsets for the life of the VM
///     efi-vars.fd                UEFI variables
///     uploads/                   incomplete uploads
///     vm.json                    the record, for people
/// <zones_dir>/images/<uuid>/     an image, unless images.dir says another place
///     disk                       raw, never written once it has this name
///     disk.partial               the same while it is imported
/// <zones_dir>/images/<uuid>.deleted/   an image whose deletion may not be committed yet
/// <run_dir>/<uuid>/
///     process.json               the hypervisor's process
///     cgroup.json                its control groups
///     qmp.sock  metadata.sock  console.in  console.start  hypervisor.log
///     out/                       pipes of the hypervisor's output, each named after the log that it ends in
/// <run_dir>/logger.sock          the logger's socket
/// <state_dir>/
///     state.db
///     kvm.json                   the KVM probe's verdict for this boot of the host
///     draining                   the boot of the host in which guests are powered off
/// ```
#[derive(Clone, Debug)]
pub struct Layout {
    zones: PathBuf,
    state: PathBuf,
    run: PathBuf,
    images: PathBuf,
}

impl Layout {
    /// Uses the configured folders.
    #[must_use]
    pub fn new(zones: impl Into<PathBuf>, state: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        let zones = zones.into();
        Self { images: zones.join("images"), zones, state: state.into(), run: run.into() }
    }

    /// Keeps images there.
    #[must_use]
    pub fn with_images(self, images: Option<PathBuf>) -> Self {
        Self { images: images.unwrap_or(self.images), ..self }
    }

    /// Folder of all images.
    #[must_use]
    pub fn images(&self) -> &Path {
        &self.images
    }

    /// The paths of one image.
    #[must_use]
    pub fn image(&self, uuid: Uuid) -> ImageLayout {
        ImageLayout { folder: self.images.join(uuid.to_string()) }
    }

    /// Folder of all zones.
    #[must_use]
    pub fn zones(&self) -> &Path {
        &self.zones
    }

    /// Folder of the agent's state.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Folder of what does not survive a boot of the host.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The state file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// The KVM probe's verdict for this boot of the host.
    #[must_use]
    pub fn kvm_verdict(&self) -> PathBuf {
        self.state.join("kvm.json")
    }

    /// Names the boot of the host in which guests are powered off.
    #[must_use]
    pub fn draining(&self) -> PathBuf {
        self.state.join("draining")
    }

    /// The host's UUID, where none is configured.
    #[must_use]
    pub fn server_uuid(&self) -> PathBuf {
        self.state.join("server_uuid")
    }

    /// The paths of one VM.
    #[must_use]
    pub fn vm(&self, uuid: Uuid) -> VmLayout {
        let name = uuid.to_string();
        VmLayout { zonepath: self.zones.join(&name), run: self.run.join(&name), images: self.images.clone() }
    }
}

/// A socket's path may have at most 107 bytes. Names one through an open descriptor of its folder, valid
/// while that is open.
pub(crate) fn short_socket_name(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, short))
}

/// The files of one image.
#[derive(Clone, Debug)]
pub struct ImageLayout {
    folder: PathBuf,
}

impl ImageLayout {
    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Its disk while it is imported.
    #[must_use]
    pub fn partial(&self) -> PathBuf {
        self.folder.join("disk.partial")
    }

    /// Its folder from before its deletion is committed until it is gone.
    #[must_use]
    pub fn deleted(&self) -> PathBuf {
        self.folder.with_extension("deleted")
    }
}

/// The folders of one VM.
#[derive(Clone, Debug)]
pub struct VmLayout {
    zonepath: PathBuf,
    run: PathBuf,
    images: PathBuf,
}

impl VmLayout {
    /// For a process that is not a VM.
    pub(crate) fn of_run(run: PathBuf) -> Self {
        Self { zonepath: PathBuf::new(), run, images: PathBuf::new() }
    }

    /// An image that the VM's disks may need.
    #[must_use]
    pub fn image(&self, uuid: Uuid) -> ImageLayout {
        ImageLayout { folder: self.images.join(uuid.to_string()) }
    }

    /// vmadm's `zonepath`.
    #[must_use]
    pub fn zonepath(&self) -> &Path {
        &self.zonepath
    }

    /// The hypervisor's `/`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.zonepath.join("root")
    }

    /// The file of the agent's disk with that number.
    #[must_use]
    pub fn disk(&self, number: usize) -> PathBuf {
        self.zonepath.join(format!("disk{number}"))
    }

    /// Output of the serial console.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.zonepath.join("console.log")
    }

    /// A picture of the screen on its way into the zone.
    #[must_use]
    pub fn picture_draft(&self) -> PathBuf {
        self.zonepath.join("picture.draft")
    }

    /// UEFI variables.
    #[must_use]
    pub fn efi_vars(&self) -> PathBuf {
        self.zonepath.join("efi-vars.fd")
    }

    /// The disk that describes the VM to its guest.
    #[must_use]
    pub fn seed(&self) -> PathBuf {
        self.zonepath.join("cidata.img")
    }

    /// Incomplete uploads.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.zonepath.join("uploads")
    }

    /// The record, for people.
    #[must_use]
    pub fn vm_json(&self) -> PathBuf {
        self.zonepath.join("vm.json")
    }

    /// Folder of what does not survive a boot of the host.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Which process the hypervisor is.
    #[must_use]
    pub fn process(&self) -> PathBuf {
        self.run.join("process.json")
    }

    /// Its control groups.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        self.run.join("cgroup.json")
    }

    /// The hypervisor's control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.run.join("qmp.sock")
    }

    /// The hypervisor's socket for its guest's metadata requests.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.run.join("metadata.sock")
    }

    /// Input of the serial console.
    #[must_use]
    pub fn console_input(&self) -> PathBuf {
        self.run.join("console.in")
    }

    /// Where the console's output of this boot begins.
    #[must_use]
    pub fn console_start(&self) -> PathBuf {
        self.run.join("console.start")
    }

    /// The pipe that ends in [`Self::console_log`].
    #[must_use]
    pub(crate) fn console_pipe(&self) -> PathBuf {
        self.run.join("out/console.log")
    }

    /// The pipe that ends in [`Self::hypervisor_log`].
    #[must_use]
    pub(crate) fn errors_pipe(&self) -> PathBuf {
        self.run.join("out/hypervisor.log")
    }

    /// The hypervisor's messages.
    #[must_use]
    pub fn hypervisor_log(&self) -> PathBuf {
        self.run.join("hypervisor.log")
    }
}
