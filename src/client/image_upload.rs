//! An image on its way to an agent, which goes on where it was interrupted while that agent lives.

use std::io::{self, Read, Seek, SeekFrom};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::{Agent, Reason, UploadError, reason};
use crate::proto::v1::{self, import_image_request::Item};

/// Bytes that are sent at once.
const CHUNK: usize = 256 << 10;

/// An upload of an image. Sending it again continues after the bytes that arrived.
#[derive(Clone, Debug)]
pub struct ImageUpload {
    header: v1::ImportImageHeader,
}

impl ImageUpload {
    /// Reads `file` once, for its size and digest. `progress` gets the byte count after each piece.
    pub fn of(file: &mut (impl Read + Seek), uuid: &str, mut progress: impl FnMut(u64)) -> io::Result<Self> {
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
        let header = v1::ImportImageHeader {
            uuid: uuid.to_owned(),
            size: i64::try_from(size).map_err(io::Error::other)?,
            digest: format!("sha256:{}", HEXLOWER.encode(&hash.finalize())),
            request_id: Uuid::new_v4().to_string(),
            ..Default::default()
        };
        Ok(Self { header })
    }

    /// The header, for its manifest, name and form.
    pub fn header(&mut self) -> &mut v1::ImportImageHeader {
        &mut self.header
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> i64 {
        self.header.size
    }

    /// Digest of the file.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.header.digest
    }

    /// Returns the bytes that arrived in an earlier try.
    pub async fn committed(&self, agent: &Agent) -> Result<i64, Status> {
        let request = v1::GetImageRequest { uuid: self.header.uuid.clone() };
        match agent.images.clone().get_image(request).await {
            Ok(answer) => Ok(answer.into_inner().image.unwrap_or_default().received),
            Err(status) if reason(&status) == Some(Reason::ImageNotFound) => Ok(0),
            Err(status) => Err(status),
        }
    }

    /// Sends the rest of the file.
    pub async fn send(
        &self,
        agent: &Agent,
        mut file: impl Read + Seek + Send + 'static,
    ) -> Result<v1::Image, UploadError> {
        let offset = self.committed(agent).await?;
        let header = v1::ImportImageHeader { offset, ..self.header.clone() };
        file.seek(SeekFrom::Start(u64::try_from(offset).unwrap_or_default()))?;
        let (sender, stream) = mpsc::channel(8);
        let read = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let item = Some(Item::Header(header));
            if sender.blocking_send(v1::ImportImageRequest { item }).is_err() {
                return Ok(());
            }
            loop {
                let mut chunk = vec![0; CHUNK];
                let count = file.read(&mut chunk)?;
                chunk.truncate(count);
                let item = Some(Item::Chunk(chunk.into()));
                // The agent has reported why it accepts no more.
                if count == 0 || sender.blocking_send(v1::ImportImageRequest { item }).is_err() {
                    return Ok(());
                }
            }
        });
        let answer = agent.images.clone().import_image(ReceiverStream::new(stream)).await;
        read.await.map_err(io::Error::other)??;
        Ok(answer?.into_inner().image.unwrap_or_default())
    }
}
