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
    /// The client said that this was all. A queue that just ends was cut.
    End,
}

/// An upload on its way to the disk.
#[derive(Debug)]
pub struct Uploader {
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) outcome: oneshot::Receiver<Result<FileReply, Error>>,
}

impl Uploader {
    /// Takes the next chunk; `false` when the upload failed already and [`Self::finish`] says why.
    pub async fn chunk(&self, chunk: Bytes) -> bool {
        self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// The client said that this was all.
    pub async fn finish(self) -> Result<FileReply, Error> {
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        self.outcome.await.map_err(|_| Error::Stopping)?
    }

    /// The client is gone; what came is kept.
    pub async fn cut(self) {
        drop(self.pieces);
        let _ = self.outcome.await;
    }
}

/// Writes chunks until the client says that this was all. Between them no thread waits: a client that
/// sends nothing costs nothing.
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
