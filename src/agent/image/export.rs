//! Images on their way out: raw, packed by zstd.

use std::{
    fs::File,
    io::{self, Read as _, Write},
    time::Duration,
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::mpsc, time::timeout};
use uuid::Uuid;

use super::ImageView;
use crate::{
    agent::{Agent, context::EXPORTS, error::Error, files::blocking},
    storage,
};

/// Pieces that wait for the caller.
const PIECES: usize = 4;
/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// How long a client may read nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// zstd's own default.
const LEVEL: i32 = 3;

impl Agent {
    /// Begins to export an image.
    pub(crate) async fn export_image(
        &self,
        uuid: Uuid,
    ) -> Result<(ImageView, mpsc::Receiver<io::Result<Bytes>>), Error> {
        let turn = self.context.export_turns.clone().try_acquire_owned();
        let turn = turn.map_err(|_| Error::TooManyExports { most: EXPORTS })?;
        let held = self.context.images.hold(uuid)?;
        let view = self.view_of_image(held.record.clone());
        let layout = self.context.layout.image(uuid);
        let disk = blocking(move || storage::open_image(&layout)).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            // It stays until its last byte is sent.
            let (_held, _turn) = (held, turn);
            let mut out = Sender { sender, runtime, piece: Vec::with_capacity(PIECE) };
            if let Err(error) = pack(disk, &mut out).and_then(|()| out.flush()) {
                let _ = out.sender.try_send(Err(error));
            }
        });
        Ok((view, pieces))
    }
}

fn pack(mut disk: File, out: &mut Sender) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match disk.read(&mut buffer)? {
            0 => return encoder.finish().map(drop),
            count => encoder.write_all(buffer.get(..count).unwrap_or_default())?,
        }
    }
}

/// Sends what is written, in pieces.
struct Sender {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    piece: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        // A client that reads nothing does not keep a thread.
        match self.runtime.block_on(timeout(PATIENCE, self.sender.send(Ok(piece.into())))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
