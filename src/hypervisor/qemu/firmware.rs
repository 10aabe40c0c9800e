//! Firmware: SeaBIOS, which QEMU brings, or UEFI code with variables of each VM's own.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    super::{Firmware, HypervisorError},
    settings::Settings,
};
use crate::spec::Bootrom;

/// UEFI code, and what its variables begin as.
struct Uefi {
    code: PathBuf,
    vars: PathBuf,
}

/// The files of a firmware; `None` is SeaBIOS.
fn uefi(settings: &Settings, bootrom: &Bootrom) -> Result<Option<Uefi>, String> {
    match bootrom {
        Bootrom::Bios => Ok(None),
        Bootrom::Uefi => {
            Ok(Some(Uefi { code: settings.ovmf_code.clone(), vars: settings.ovmf_vars.clone() }))
        }
        Bootrom::File(path) => {
            let code = allowed(settings, Path::new(path))?;
            let vars = variables_beside(&code).unwrap_or_else(|| settings.ovmf_vars.clone());
            Ok(Some(Uefi { code, vars }))
        }
    }
}

/// A file below one of the configured directories, links followed.
fn allowed(settings: &Settings, path: &Path) -> Result<PathBuf, String> {
    let is_below = |found: &Path| {
        let folders = settings.firmware_dirs.iter().filter_map(|folder| folder.canonicalize().ok());
        folders.into_iter().any(|folder| found.starts_with(folder))
    };
    let named = settings.firmware_dirs.iter().any(|folder| path.starts_with(folder));
    if !named {
        let why = "it is not in a directory that the host allows (qemu.firmware_dirs)";
        return Err(format!("{}: {why}; take bios or uefi", path.display()));
    }
    match path.canonicalize() {
        Ok(found) if found.is_file() && is_below(&found) => Ok(found),
        Ok(_) => Err(format!("{}: not a file in a directory of qemu.firmware_dirs", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// `OVMF_VARS.fd` beside `OVMF_CODE.fd`.
fn variables_beside(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    let vars = code.with_file_name(name.replacen("CODE", "VARS", 1));
    (vars != code && vars.is_file()).then_some(vars)
}

/// Returns why this host can't boot with it.
pub(super) fn fault(settings: &Settings, bootrom: &Bootrom) -> Option<String> {
    // OVMF may be installed later; a start reports it if not.
    matches!(bootrom, Bootrom::File(_)).then(|| uefi(settings, bootrom).err()).flatten()
}

/// Opens it, with the VM's variables at `vars`, which are made if they are not there.
pub(super) fn open(settings: &Settings, bootrom: &Bootrom, vars: &Path) -> Result<Firmware, HypervisorError> {
    let Some(uefi) = uefi(settings, bootrom).map_err(HypervisorError::Plan)? else {
        return Ok(Firmware::Bios);
    };
    let failed = |path: &Path| {
        HypervisorError::at::<io::Error>(format!("UEFI firmware {} (package ovmf)", path.display()))
    };
    let code = File::open(&uefi.code).map_err(failed(&uefi.code))?;
    change_places(&uefi.vars, vars)
        .map_err(HypervisorError::at(format!("UEFI variables {}", vars.display())))?;
    if !vars.exists() {
        copy_new(&uefi.vars, vars)
            .map_err(HypervisorError::at(format!("UEFI variables {}", vars.display())))?;
    }
    // Debian's files may be links; the VM's own may not.
    let vars = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(vars)
        .map_err(failed(vars))?;
    Ok(Firmware::Uefi { code, vars })
}

/// Sets variables of another size aside, because another firmware wrote them, and brings back those of this size.
fn change_places(template: &Path, vars: &Path) -> io::Result<()> {
    let size = template.metadata()?.len();
    let aside = |size: u64| vars.with_extension(format!("{size}.fd"));
    match vars.symlink_metadata() {
        Ok(found) if found.len() != size => std::fs::rename(vars, aside(found.len()))?,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match std::fs::rename(aside(size), vars) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Restores the size of a VM's variables, if they exist.
pub(super) fn settle(settings: &Settings, bootrom: &Bootrom, vars: &Path) -> Result<(), HypervisorError> {
    let failed = || HypervisorError::at(format!("UEFI variables {}", vars.display()));
    let Ok(Some(uefi)) = uefi(settings, bootrom) else { return Ok(()) };
    let file = match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(vars) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed())?,
    };
    let size = uefi.vars.metadata().map_err(failed())?.len();
    let found = file.metadata().map_err(failed())?.len();
    if found != size {
        tracing::warn!(vars = %vars.display(), found, size, "the hypervisor changed the size of its UEFI variables; they have their own again");
        file.set_len(size).map_err(failed())?;
    }
    Ok(())
}

/// Copies a file atomically.
fn copy_new(from: &Path, to: &Path) -> io::Result<()> {
    let draft = to.with_extension("draft");
    let _ = std::fs::remove_file(&draft);
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()?;
    std::fs::rename(&draft, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_in_configured_directories_are_firmware() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("firmware");
        std::fs::create_dir(&inside).unwrap();
        for name in ["CODE.fd", "VARS.fd"] {
            std::fs::write(inside.join(name), name).unwrap();
        }
        std::fs::write(dir.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), inside.join("link.fd")).unwrap();
        let settings = Settings { firmware_dirs: vec![inside.clone()], ..Settings::default() };
        let file = |path: &Path| Bootrom::File(path.display().to_string());
        assert_eq!(fault(&settings, &file(&inside.join("CODE.fd"))), None);
        for (path, why) in [
            (dir.path().join("secret"), "qemu.firmware_dirs"),
            (inside.join("link.fd"), "not a file in a directory"),
            (inside.clone(), "not a file in a directory"),
            (inside.join("none.fd"), "No such file"),
        ] {
            let found = fault(&settings, &file(&path)).unwrap();
            assert!(found.contains(why), "{found}");
        }
        assert!(fault(&Settings::default(), &file(&inside.join("CODE.fd"))).is_some());

        let vars = dir.path().join("vm.vars");
        let Firmware::Uefi { .. } = open(&settings, &file(&inside.join("CODE.fd")), &vars).unwrap() else {
            panic!()
        };
        assert_eq!(std::fs::read_to_string(&vars).unwrap(), "VARS.fd");
        std::fs::write(&vars, "changed, and longer").unwrap();
        settle(&settings, &file(&inside.join("CODE.fd")), &vars).unwrap();
        assert_eq!(std::fs::read_to_string(&vars).unwrap(), "changed");

        // Firmware with variables of another size has its own, and finds them again.
        std::fs::write(inside.join("B_CODE.fd"), "").unwrap();
        std::fs::write(inside.join("B_VARS.fd"), "larger variables").unwrap();
        let text = || std::fs::read_to_string(&vars).unwrap();
        for _ in 0..2 {
            open(&settings, &file(&inside.join("B_CODE.fd")), &vars).unwrap();
            assert_eq!(text(), "larger variables");
            open(&settings, &file(&inside.join("CODE.fd")), &vars).unwrap();
            assert_eq!(text(), "changed");
        }
    }
}
