//! An upload into a VM's zone that continues where it was interrupted.

use std::io::{self, Read, Seek, SeekFrom};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::Agent;
use crate::proto::v1::{self, put_file_request::Item};

/// Bytes that are sent at once.
const CHUNK: usize = 256 << 10;

/// Why a file did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The file cannot be read.
    #[error("reading the file: {0}")]
    Read(#[from] io::Error),
    /// The agent refused, or was lost.
    #[error("{}", .0.message())]
    Agent(#[from] Box<Status>),
}

impl From<Status> for UploadError {
    fn from(status: Status) -> Self {
        Self::Agent(Box::new(status))
    }
}

/// An upload. Sending it again continues after the bytes that arrived, also from another program.
#[derive(Clone, Debug)]
pub struct Upload {
    header: v1::PutFileHeader,
}

impl Upload {
    /// Reads `file` once, for its size and digest. `progress` gets the byte count after each piece.
    pub fn of(
        file: &mut (impl Read + Seek),
        uuid: &str,
        path: &str,
        mut progress: impl FnMut(u64),
    ) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let (mut hash, mut buffer, mut size) = (Sha256::new(), vec![0; CHUNK], 0_u64);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => {
                    hash.update(buffer.get(..count).unwrap_or_default());
                    size += count as u64;
                    progress(size);
                }
            }
        }
        let header = v1::PutFileHeader {
            uuid: uuid.to_owned(),
            path: path.to_owned(),
            size: i64::try_from(size).map_err(io::Error::other)?,
            sha256: HEXLOWER.encode(&hash.finalize()),
            request_id: Uuid::new_v4().to_string(),
            ..Default::default()
        };
        Ok(Self { header })
    }

    /// Sets whether an existing file is replaced.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.header.overwrite = overwrite;
        self
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> i64 {
        self.header.size
    }

    /// Returns the bytes that arrived in an earlier try.
    pub async fn committed(&self, agent: &Agent) -> Result<i64, Status> {
        let list = |page_token| {
            let mut vms = agent.vms.clone();
            let request = v1::ListFilesRequest {
                uuid: self.header.uuid.clone(),
                path: "/".into(),
                page_size: 1,
                page_token,
            };
            async move { vms.list_files(request).await }
        };
        // Only the first page has them.
        let uploads = list(String::new()).await?.into_inner().uploads;
        let own = |upload: &&v1::Upload| {
            (&upload.path, upload.size, &upload.sha256)
                == (&self.header.path, self.header.size, &self.header.sha256)
        };
        Ok(uploads.iter().find(own).map_or(0, |upload| upload.committed))
    }

    /// Sends the rest of the file.
    pub async fn send(
        &self,
        agent: &Agent,
        mut file: impl Read + Seek + Send + 'static,
    ) -> Result<v1::FileEntry, UploadError> {
        let offset = self.committed(agent).await?;
        let header = v1::PutFileHeader { offset, ..self.header.clone() };
        file.seek(SeekFrom::Start(u64::try_from(offset).unwrap_or_default()))?;
        let (sender, stream) = mpsc::channel(8);
        let read = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let item = Some(Item::Header(header));
            if sender.blocking_send(v1::PutFileRequest { item }).is_err() {
                return Ok(());
            }
            loop {
                let mut chunk = vec![0; CHUNK];
                let count = file.read(&mut chunk)?;
                chunk.truncate(count);
                let item = Some(Item::Chunk(chunk.into()));
                // The agent has reported why it accepts no more.
                if count == 0 || sender.blocking_send(v1::PutFileRequest { item }).is_err() {
                    return Ok(());
                }
            }
        });
        let answer = agent.vms.clone().put_file(ReceiverStream::new(stream)).await;
        read.await.map_err(io::Error::other)??;
        Ok(answer?.into_inner().file.unwrap_or_default())
    }
}
