//! A small FAT disk with a few files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

/// Bytes of the disk; the file is sparse.
const SIZE: u64 = 16 << 20;
/// The label by which cloud-init knows it.
const LABEL: [u8; 11] = *b"CIDATA     ";

/// Writes the disk atomically, and opens it for reading. Its content may be secret.
pub(crate) fn write_seed(path: &Path, files: &[(&str, String)]) -> io::Result<File> {
    let draft = path.with_extension("draft");
    let mut disk =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    disk.set_len(SIZE)?;
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().fat_type(FatType::Fat16).volume_label(LABEL))?;
    let volume = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, content) in files {
        volume.root_dir().create_file(name)?.write_all(content.as_bytes())?;
    }
    volume.unmount()?;
    fs::rename(&draft, path)?;
    File::open(path)
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cidata.img");
        write_seed(&path, &[("user-data", "old".to_owned())]).unwrap();
        let files = [("meta-data", "a: b\n".to_owned()), ("user-data", "x".repeat(1 << 20))];
        let disk = write_seed(&path, &files).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), SIZE);
        assert_eq!(disk.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut copy = File::options().read(true).write(true).open(&path).unwrap();
        let volume = FileSystem::new(&mut copy, FsOptions::new()).unwrap();
        assert_eq!((volume.fat_type(), volume.volume_label().as_str()), (FatType::Fat16, "CIDATA"));
        let mut found = Vec::new();
        for entry in volume.root_dir().iter().map(Result::unwrap).filter(fatfs::DirEntry::is_file) {
            let mut content = String::new();
            entry.to_file().read_to_string(&mut content).unwrap();
            found.push((entry.file_name(), content));
        }
        assert_eq!(found, files.map(|(name, content)| (name.to_owned(), content)));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no draft is left");
    }
}
