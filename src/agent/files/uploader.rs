//! An upload on its way from a caller to the disk.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    agent::{error::Error, files::blocking, request::reply::FileReply},
    storage::Upload,
};

/// Chunks that wait for the disk.
pub(super) const CHUNKS: usize = 4;

#[derive(Debug)]
pub(super) enum Piece {
    Chunk(Bytes),
    /// The client has sent everything. A queue that just ends was cut.
    End,
}

/// An upload on its way to the disk.
#[derive(Debug)]
pub struct Uploader {
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) outcome: oneshot::Receiver<Result<FileReply, Error>>,
}

impl Uploader {
    /// Queues the next chunk; `false` when the upload has failed and [`Self::finish`] returns why.
    pub async fn chunk(&self, chunk: Bytes) -> bool {
        self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// The client said that this was all.
    pub async fn finish(self) -> Result<FileReply, Error> {
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        self.outcome.await.map_err(|_| Error::Stopping)?
    }

    /// Cuts the upload; what arrived is kept.
    pub async fn cut(self) {
        drop(self.pieces);
        let _ = self.outcome.await;
    }
}

/// Writes chunks until the client ends the upload. Between chunks no thread waits: an idle client costs
/// nothing.
pub(super) async fn receive(mut upload: Upload, mut queue: mpsc::Receiver<Piece>) -> Result<Upload, Error> {
    loop {
        match queue.recv().await {
            Some(Piece::Chunk(chunk)) => {
                upload = blocking(move || upload.write(&chunk).map(|()| upload)).await?;
            }
            Some(Piece::End) => return Ok(upload),
            None => {
                return Err(Error::UploadBroken {
                    path: String::new(),
                    message: "the upload was cut; what came is kept, and a repeat goes on behind it"
                        .to_owned(),
                });
            }
        }
    }
}
