//! One guest's session, for as long as its hypervisor exists.
//!
//! ```text
//!   connect ──▶ line ──▶ answer ──▶ line … ──▶ end of the connection ──▶ connect
//!                 │ over the bound: skipped to its end
//!                 │ over the pace: not read for a while; the guest's port fills up
//! ```
//!
//! The first line after a connect may be the rest of one that an earlier agent began to read. If it is
//! invalid the agent does not reply, so that the guest's next reply answers its next request.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    keys::Answer,
    protocol::{Command, Line, MAX_LINE, Reply, framed, parse, plain},
};
use crate::{layout::short_socket_name, sys::connect_in_passing};

/// Requests allowed at once, then at an interval. Booting an image needs some forty.
const READS: Pace = Pace { burst: 400, each: Duration::from_millis(5) };
/// Pages of changes. Each change is an event with the whole machine, in the journal that all VMs share: 2 MiB
/// at once, then 2 KiB per second, so that one guest needs days to displace the events of others.
const WRITES: Pace = Pace { burst: 512, each: Duration::from_secs(2) };
/// Bytes of a page.
const WEIGHT: usize = 4 << 10;
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(200);
/// How long a guest may leave a reply unread.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session's view of its VM.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Reports the guest's first request.
    async fn first_request(&self);
    /// Reads a key.
    async fn get(&self, key: &str) -> Answer;
    /// Lists the keys that the guest may see.
    async fn keys(&self) -> Vec<String>;
    /// Returns the size of a change: bytes of the machine.
    fn size(&self) -> usize;
    /// Sets or removes a key; an error says why not.
    async fn set(&self, key: &str, value: Option<&str>) -> Result<(), String>;
}

/// Serves the guest whose hypervisor listens at `socket`. Ends when it is dropped.
pub(crate) async fn serve(socket: &Path, source: &dyn Source) {
    let mut session =
        Session { source, asked: false, reads: Bucket::new(READS), writes: Bucket::new(WRITES) };
    loop {
        match connect(socket) {
            Ok(stream) => {
                if let Err(error) = session.talk(stream).await {
                    tracing::debug!(%error, socket = %socket.display(), "session ended");
                }
            }
            Err(error) => tracing::debug!(%error, socket = %socket.display(), "cannot connect"),
        }
        sleep(RETRY).await;
    }
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let (_folder, name) = short_socket_name(socket)?;
    UnixStream::from_std(connect_in_passing(&name)?)
}

struct Session<'a> {
    source: &'a dyn Source,
    asked: bool,
    reads: Bucket,
    writes: Bucket,
}

impl Session<'_> {
    async fn talk(&mut self, stream: UnixStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut first = true;
        while let Some(line) = read_line(&mut reader).await? {
            self.reads.take().await;
            let text = match parse(&line) {
                Line::Negotiate => "V2_OK\n".to_owned(),
                Line::Plain(command) => plain(&self.obey(command).await),
                Line::Framed(id, command) => framed(&id, &self.obey(command).await),
                Line::Invalid if !first || line.is_empty() => "invalid command\n".to_owned(),
                Line::Invalid | Line::Broken | Line::Noise => String::new(),
            };
            first = false;
            timeout(PATIENCE, writer.write_all(text.as_bytes())).await??;
        }
        Ok(())
    }

    async fn obey(&mut self, command: Command) -> Reply {
        if !std::mem::replace(&mut self.asked, true) {
            self.source.first_request().await;
        }
        let (key, value) = match command {
            Command::Get(key) => {
                return match self.source.get(&key).await {
                    Answer::Value(value) => Reply::Success(value),
                    Answer::NotFound => Reply::NotFound,
                    Answer::Nested => Reply::Failure(format!("{key} is no plain value")),
                };
            }
            Command::Keys => return Reply::Success(self.source.keys().await.join("\n")),
            Command::Refused(words) => return Reply::Failure(words),
            // An empty value is none.
            Command::Put(key, value) => (key, Some(value).filter(|value| !value.is_empty())),
            Command::Delete(key) => (key, None),
        };
        // The event holds the value twice, and the replaced one.
        let bytes = self.source.size() + 3 * value.as_ref().map_or(0, String::len);
        self.writes.take_many(1 + u32::try_from(bytes / WEIGHT).unwrap_or(u32::MAX)).await;
        match self.source.set(&key, value.as_deref()).await {
            Ok(()) => Reply::Success("OK".to_owned()),
            Err(words) => Reply::Failure(words),
        }
    }
}

/// Reads the next line without its end; skips lines over the bound. `None` at the end.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let (mut line, mut skipping) = (Vec::new(), false);
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let (part, end) = match chunk.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at, Some(at + 1)),
            None => (chunk.len(), None),
        };
        if line.len() + part > MAX_LINE {
            (line, skipping) = (Vec::new(), true);
        }
        if !skipping {
            line.extend_from_slice(&chunk[..part]);
        }
        let taken = end.unwrap_or(part);
        reader.consume(taken);
        if end.is_some() {
            if !skipping {
                return Ok(Some(line));
            }
            tracing::debug!("a metadata request over the bound was skipped");
            (line, skipping) = (Vec::new(), false);
        }
    }
}

/// A rate limit: a burst, then one per interval.
#[derive(Clone, Copy, Debug)]
struct Pace {
    burst: u32,
    each: Duration,
}

/// The state of a rate limit.
#[derive(Debug)]
struct Bucket {
    pace: Pace,
    /// When it is full again.
    full: Instant,
}

impl Bucket {
    fn new(pace: Pace) -> Self {
        Self { pace, full: Instant::now() }
    }

    /// Waits for one token.
    async fn take(&mut self) {
        self.take_many(1).await;
    }

    /// Waits for `count` tokens; if the bucket holds fewer, until it is full.
    async fn take_many(&mut self, count: u32) {
        let now = Instant::now();
        self.full = self.full.max(now) + self.pace.each * count.min(self.pace.burst);
        let most = self.pace.each * self.pace.burst;
        if self.full > now + most {
            sleep_until(self.full - most).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use tokio::{io::AsyncReadExt as _, net::UnixListener};

    use super::*;

    #[derive(Default)]
    struct Map(Mutex<(BTreeMap<String, String>, u32)>);

    #[async_trait]
    impl Source for Map {
        async fn first_request(&self) {
            self.0.lock().unwrap().1 += 1;
        }

        async fn get(&self, key: &str) -> Answer {
            self.0.lock().unwrap().0.get(key).map_or(Answer::NotFound, |value| Answer::Value(value.clone()))
        }

        async fn keys(&self) -> Vec<String> {
            self.0.lock().unwrap().0.keys().cloned().collect()
        }

        fn size(&self) -> usize {
            0
        }

        async fn set(&self, key: &str, value: Option<&str>) -> Result<(), String> {
            let map = &mut self.0.lock().unwrap().0;
            match value {
                Some(value) => _ = map.insert(key.to_owned(), value.to_owned()),
                None => _ = map.remove(key),
            }
            Ok(())
        }
    }

    /// A guest's end, and the source that is asked.
    async fn guest() -> (tempfile::TempDir, UnixListener, Arc<Map>, tokio::task::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let source = Arc::new(Map::default());
        let serving = tokio::spawn({
            let source = source.clone();
            async move { serve(&path, &*source).await }
        });
        (dir, listener, source, serving)
    }

    async fn ask(stream: &mut UnixStream, text: &str, answer: &str) {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut got = vec![0; answer.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), answer, "{text}");
    }

    #[tokio::test]
    async fn a_guest_talks_and_goes_on_with_the_next_agent() {
        let (_dir, listener, source, serving) = guest().await;
        let (mut port, _) = listener.accept().await.unwrap();
        ask(&mut port, "\n", "invalid command\n").await;
        ask(&mut port, "hello\n", "invalid command\n").await;
        ask(&mut port, "NEGOTIATE V2\n", "V2_OK\n").await;
        assert_eq!(source.0.lock().unwrap().1, 0, "so far it asked for nothing");
        ask(
            &mut port,
            "V2 25 bb16d295 0badcafe PUT Wm05diBZbUZ5\n",
            "V2 21 90065164 0badcafe SUCCESS T0s=\n",
        )
        .await;
        // A broken one is dropped, and the one behind it answered.
        ask(&mut port, "V2 13 00000000 00000001 KEYS\nGET foo\n", "SUCCESS\nbar\n.\n").await;
        assert_eq!(source.0.lock().unwrap().1, 1);
        // The agent goes in the middle of a frame.
        drop(port);
        let (mut port, _) = listener.accept().await.unwrap();
        ask(
            &mut port,
            "afe DELETE Zm9v\nV2 20 2b572e20 0badcafe DELETE Zm9v\n",
            "V2 21 90065164 0badcafe SUCCESS T0s=\n",
        )
        .await;
        ask(&mut port, "GET foo\n", "NOTFOUND\n").await;
        serving.abort();
    }

    #[tokio::test]
    async fn a_line_without_an_end_costs_bounded_memory() {
        let (_dir, listener, _, serving) = guest().await;
        let (mut port, _) = listener.accept().await.unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            port.write_all(&block).await.unwrap();
        }
        ask(&mut port, "\nGET foo\n", "NOTFOUND\n").await;
        serving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_has_its_pace() {
        let mut bucket = Bucket::new(Pace { burst: 10, each: Duration::from_millis(100) });
        let began = Instant::now();
        for _ in 0..10 {
            bucket.take().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            bucket.take().await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        sleep(Duration::from_secs(60)).await;
        let later = Instant::now();
        for _ in 0..10 {
            bucket.take().await;
        }
        assert_eq!(later.elapsed(), Duration::ZERO, "what was not used can be used again");
    }
}
