//! A running QEMU.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{GuestStatus, Hearing, HypervisorError, InfoType, Machine, MachineEvent, Medium, Picture, Setup},
    info,
    qmp::Qmp,
    trace::CAUSES,
};

/// A QEMU by its control connection.
#[derive(Debug)]
pub(super) struct QemuMachine {
    uuid: Uuid,
    qmp: Qmp,
    /// Names for descriptors that are handed over.
    next_name: AtomicU64,
}

impl QemuMachine {
    pub(super) async fn connect(
        uuid: Uuid,
        control: &Path,
        patience: Duration,
    ) -> Result<Self, HypervisorError> {
        Ok(Self { uuid, qmp: Qmp::connect(control, patience).await?, next_name: AtomicU64::new(0) })
    }

    /// Passes a descriptor; returns the number of its set.
    async fn add_fd(&self, descriptor: BorrowedFd<'_>) -> Result<u64, HypervisorError> {
        let set = self.qmp.execute_with("add-fd", json!({}), descriptor).await?;
        set["fdset-id"]
            .as_u64()
            .ok_or_else(|| HypervisorError::Garbled { command: "add-fd".to_owned(), detail: set.to_string() })
    }

    async fn query(&self, command: &str) -> Result<Value, HypervisorError> {
        self.qmp.execute(command, json!({})).await
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn hypervisor(&self) -> &str {
        self.qmp.hypervisor()
    }

    async fn set_up(&self, setup: &Setup) -> Result<(), HypervisorError> {
        // Each position must be unique, so all are cleared first.
        let cleared = setup.boot_positions.iter().map(|(id, _)| (id, -1));
        let wanted = setup.boot_positions.iter().map(|(id, position)| (id, *position));
        for (id, position) in cleared.chain(wanted.filter(|(_, position)| *position >= 0)) {
            let arguments = json!({"path": format!("/machine/peripheral/{id}"), "property": "bootindex", "value": position});
            self.qmp.execute("qom-set", arguments).await?;
        }
        self.set_vnc_password(setup.vnc_password.as_deref()).await
    }

    async fn pause(&self) -> Result<(), HypervisorError> {
        self.query("stop").await.map(drop)
    }

    async fn inject_nmi(&self) -> Result<(), HypervisorError> {
        self.query("inject-nmi").await.map(drop)
    }

    async fn send_break(&self) -> Result<(), HypervisorError> {
        self.qmp.execute("chardev-send-break", json!({"id": "console"})).await.map(drop)
    }

    async fn wake_screen(&self) -> Result<(), HypervisorError> {
        let keys = json!({"keys": [{"type": "qcode", "data": "shift"}]});
        self.qmp.execute("send-key", keys).await.map(drop)
    }

    async fn change_medium(&self, drive: &str, medium: Option<Medium>) -> Result<(), HypervisorError> {
        let Some(medium) = medium else {
            return self.qmp.execute("eject", json!({"id": drive, "force": true})).await.map(drop);
        };
        let set = self.add_fd(medium.file.as_fd()).await?;
        let change = json!({
            "id": drive,
            "filename": format!("/dev/fdset/{set}"),
            // Explicit, never probed from what a guest may have written.
            "format": "raw",
            "read-only-mode": "read-only",
            "force": true,
        });
        let changed = self.qmp.execute("blockdev-change-medium", change).await;
        // The drive has its own copy of the descriptor.
        self.qmp.execute("remove-fd", json!({"fdset-id": set})).await?;
        changed.map(drop)
    }

    async fn set_vnc_password(&self, password: Option<&str>) -> Result<(), HypervisorError> {
        let Some(password) = password else { return Ok(()) };
        let arguments = json!({"protocol": "vnc", "password": password});
        self.qmp.execute("set_password", arguments).await.map(drop)
    }

    async fn resume(&self) -> Result<(), HypervisorError> {
        self.query("cont").await.map(drop)
    }

    async fn listens_to_power_button(&self) -> Result<Hearing, HypervisorError> {
        for port in PM1_ENABLE {
            let command = json!({"command-line": format!("i /h {port:#x}")});
            let said = self.qmp.execute("human-monitor-command", command).await?;
            // portw[0x0602] = 0x0120
            let word = said.as_str().and_then(|said| said.trim().rsplit_once("0x"));
            match word.and_then(|(_, word)| u16::from_str_radix(word, 16).ok()) {
                None => return Ok(Hearing::Unknown),
                Some(NOBODY) => {}
                Some(enabled) if enabled & POWER_BUTTON != 0 => return Ok(Hearing::Listens),
                Some(_) => return Ok(Hearing::Deaf),
            }
        }
        // The firmware is not ready yet.
        Ok(Hearing::Deaf)
    }

    async fn wake(&self) -> Result<(), HypervisorError> {
        self.query("system_wakeup").await.map(drop)
    }

    async fn press_power_button(&self) -> Result<(), HypervisorError> {
        self.query("system_powerdown").await.map(drop)
    }

    async fn reset(&self) -> Result<(), HypervisorError> {
        self.query("system_reset").await.map(drop)
    }

    async fn status(&self) -> Result<GuestStatus, HypervisorError> {
        let answer = self.query("query-status").await?;
        Ok(GuestStatus {
            running: answer["running"].as_bool().unwrap_or_default(),
            status: known_status(answer["status"].as_str().unwrap_or_default()).to_owned(),
        })
    }

    async fn info(&self, kind: InfoType) -> Result<Value, HypervisorError> {
        let Some(command) = info::command(kind) else { return Ok(json!({})) };
        Ok(info::shape(kind, self.query(command).await?))
    }

    async fn screenshot(&self, form: Picture) -> Result<Vec<u8>, HypervisorError> {
        let format = match form {
            Picture::Png => "png",
            Picture::Ppm => "ppm",
        };
        // QEMU's zone is charged for the memory that it fills, whatever it does with the descriptor.
        let file = rustix::fs::memfd_create("picture", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(HypervisorError::at("making a file for the picture"))?);
        // QEMU accepts only a set whose descriptor is write-only.
        let for_writing = rustix::fs::openat(
            rustix::fs::CWD,
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)),
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(HypervisorError::at("opening the file for the picture"))?;
        let set = self.add_fd(for_writing.as_fd()).await?;
        let dumped = self
            .qmp
            .execute("screendump", json!({"filename": format!("/dev/fdset/{set}"), "format": format}))
            .await;
        self.qmp.execute("remove-fd", json!({"fdset-id": set})).await?;
        dumped?;
        let picture = tokio::task::spawn_blocking(move || read_picture(&file, form)).await;
        picture
            .map_err(io::Error::other)
            .and_then(|picture| picture)
            .map_err(HypervisorError::at("reading the picture"))
    }

    async fn add_vnc_client(&self, socket: OwnedFd, trusted: bool) -> Result<(), HypervisorError> {
        let name = format!("vnc-{}", self.next_name.fetch_add(1, Ordering::Relaxed));
        self.qmp.execute_with("getfd", json!({"fdname": name}), socket.as_fd()).await?;
        let client = json!({"protocol": "vnc", "fdname": name, "skipauth": trusted});
        let added = self.qmp.execute("add_client", client).await;
        if added.is_err() {
            let _ = self.qmp.execute("closefd", json!({"fdname": name})).await;
        }
        added.map(drop)
    }

    async fn next_event(&self) -> Option<MachineEvent> {
        loop {
            let event = self.qmp.next_event().await?;
            let guest = event.data["guest"].as_bool().unwrap_or_default();
            let reason = || known_reason(event.data["reason"].as_str().unwrap_or_default()).to_owned();
            return Some(match event.name.as_str() {
                "SHUTDOWN" => MachineEvent::Shutdown { guest, reason: reason() },
                "RESET" => MachineEvent::Reset { guest },
                "GUEST_PANICKED" => MachineEvent::Panicked,
                "STOP" | "RESUME" | "SUSPEND" | "WAKEUP" => MachineEvent::Stopped,
                other => {
                    tracing::debug!(vm = %self.uuid, event = other, "ignored a QMP event");
                    continue;
                }
            });
        }
    }
}

/// The PM1 enable register, at SeaBIOS's and at OVMF's address, in which a system enables ACPI events; and
/// the value of an unused port.
const PM1_ENABLE: [u16; 2] = [0x602, 0xb002];
const POWER_BUTTON: u16 = 1 << 8;
const NOBODY: u16 = u16::MAX;

/// QEMU's run states. Records and events contain the word, so only known ones are accepted.
fn known_status(status: &str) -> &'static str {
    let known = [
        "running",
        "paused",
        "shutdown",
        "prelaunch",
        "internal-error",
        "io-error",
        "guest-panicked",
        "watchdog",
        "suspended",
        "save-vm",
        "restore-vm",
        "debug",
        "inmigrate",
        "postmigrate",
        "finish-migrate",
        "colo",
    ];
    known.into_iter().find(|word| *word == status).unwrap_or("unknown")
}

/// QEMU's reasons of a shutdown.
fn known_reason(reason: &str) -> &'static str {
    CAUSES.into_iter().find(|word| *word == reason).unwrap_or("unknown")
}

/// The picture that a file begins with.
fn read_picture(file: &File, form: Picture) -> io::Result<Vec<u8>> {
    let mut picture = vec![0; form.most()];
    let mut filled = 0;
    while filled < picture.len() {
        match file.read_at(picture.get_mut(filled..).unwrap_or_default(), filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    let is_full = filled == picture.len();
    picture.truncate(filled);
    let end = match form {
        Picture::Png => end_of_png(&picture),
        Picture::Ppm => end_of_ppm(&picture),
    };
    let end = end.ok_or_else(|| match is_full {
        true => io::Error::other(format!("it is larger than {} KiB", form.most() >> 10)),
        false => io::Error::other("the hypervisor made no picture"),
    })?;
    picture.truncate(end);
    picture.shrink_to_fit();
    Ok(picture)
}

/// Returns the length of the PPM at the start of `bytes`: a header of four words, and three bytes per pixel.
fn end_of_ppm(bytes: &[u8]) -> Option<usize> {
    let mut place = 0;
    let mut word = || {
        let rest = bytes.get(place..)?;
        let length = rest.iter().take(10).position(u8::is_ascii_whitespace)?;
        place += length + 1;
        std::str::from_utf8(rest.get(..length)?).ok()
    };
    let (magic, width, height, depth) = (word()?, word()?, word()?, word()?);
    if (magic, depth) != ("P6", "255") {
        return None;
    }
    let pixels = width.parse::<usize>().ok()?.checked_mul(height.parse().ok()?)?;
    let end = pixels.checked_mul(3)?.checked_add(place)?;
    (end <= bytes.len()).then_some(end)
}

/// Returns the length of the PNG at the start of `bytes`.
fn end_of_png(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        // Data and checksum.
        let data = usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_add(4)?;
        rest = after.get(data..)?;
        if kind == b"IEND" {
            return Some(bytes.len() - rest.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn chunk(kind: &[u8], length: u32, data: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes(), kind, data, b"CRC!"].concat()
    }

    #[test]
    fn a_picture_ends_with_its_last_chunk() {
        let whole = [HEAD, &chunk(b"IHDR", 3, b"abc"), &chunk(b"IEND", 0, b"")].concat();
        let more = [&whole[..], b"more"].concat();
        assert_eq!(end_of_png(&more), Some(whole.len()));
        for length in 0..whole.len() {
            assert_eq!(end_of_png(&whole[..length]), None, "{length}");
        }
        assert_eq!(end_of_png(&[HEAD, &chunk(b"IHDR", u32::MAX, b"")].concat()), None);
        assert_eq!(end_of_png(b"GIF"), None);
    }

    #[test]
    fn a_picture_that_fits_no_message_is_refused() {
        let read = |bytes: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            read_picture(&file, Picture::Png)
        };
        let with = |data: usize| {
            let data = chunk(b"IDAT", u32::try_from(data).unwrap(), &vec![0; data]);
            [HEAD, &data, &chunk(b"IEND", 0, b"")].concat()
        };
        let rest = with(0).len();
        assert_eq!(read(&with(Picture::Png.most() - rest)).unwrap().len(), Picture::Png.most());
        assert!(read(&with(Picture::Png.most() - rest + 1)).unwrap_err().to_string().contains("larger than"));
        assert!(read(b"no").unwrap_err().to_string().contains("no picture"));
    }

    #[test]
    fn a_ppm_ends_behind_its_pixels() {
        let of = |text: &str| end_of_ppm(text.as_bytes());
        assert_eq!(of("P6\n2 1\n255\nabcdefrest"), Some(17));
        for wrong in [
            "",
            "P6\n2 1\n255\nabcde",
            "P5\n1 1\n255\nabc",
            "P6\n1 1\n65535\nabcdef",
            "P6\n99999999999 9\n255\n",
            "P6",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
