//! A console's output, from any byte on, across broken connections.

use bytes::Bytes;
use tonic::{Status, Streaming, transport::Channel};

use super::{backoff::Backoff, watcher::is_passing};
use crate::proto::v1::{self, console_service_client::ConsoleServiceClient, read_log_response::Item};

/// Output of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Printed {
    /// These bytes.
    Bytes(Bytes),
    /// Bytes from here to there are no longer kept.
    Gap {
        /// The first that is missing.
        from: i64,
        /// The first that is kept.
        to: i64,
    },
}

/// Follows a console's output. When the connection breaks it continues at the byte where it was.
#[derive(Debug)]
pub struct ConsoleLog {
    client: ConsoleServiceClient<Channel>,
    request: v1::ReadLogRequest,
    stream: Option<Streaming<v1::ReadLogResponse>>,
    wait: Backoff,
}

impl ConsoleLog {
    /// Follows a VM's console from an offset on; 0 is the beginning, where discarded output is a gap.
    pub async fn follow(
        mut client: ConsoleServiceClient<Channel>,
        uuid: &str,
        offset: i64,
    ) -> Result<Self, Status> {
        let request = v1::ReadLogRequest { uuid: uuid.to_owned(), offset, follow: true };
        let stream = client.read_log(request.clone()).await?.into_inner();
        Ok(Self { client, request, stream: Some(stream), wait: Backoff::default() })
    }

    /// Returns the offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.request.offset
    }

    /// Returns the next item; errors are final.
    pub async fn next(&mut self) -> Result<Printed, Status> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.wait.wait().await;
                match self.client.read_log(self.request.clone()).await {
                    Ok(answer) => self.stream = Some(answer.into_inner()),
                    Err(status) if is_passing(&status) => {}
                    Err(status) => return Err(status),
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.wait = Backoff::default();
                    match message.item {
                        Some(Item::Data(data)) => {
                            let length = i64::try_from(data.data.len()).unwrap_or(i64::MAX);
                            self.request.offset = data.offset.saturating_add(length);
                            return Ok(Printed::Bytes(data.data));
                        }
                        Some(Item::Gap(gap)) => {
                            self.request.offset = gap.to;
                            return Ok(Printed::Gap { from: gap.from, to: gap.to });
                        }
                        None => {}
                    }
                }
                Ok(None) => self.stream = None,
                Err(status) if is_passing(&status) => self.stream = None,
                Err(status) => return Err(status),
            }
        }
    }
}
