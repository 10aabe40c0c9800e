//! An image's bytes on their way: forward, and on from where a connection broke.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response, StatusCode, Url, header};
use tokio::io::AsyncReadExt as _;

use super::{
    error::SourceError,
    http::{self, Http},
};

/// Attempts without a byte between them.
const ATTEMPTS: u32 = 5;
/// Bytes read from a file at once.
const PIECE: usize = 256 << 10;

/// Where the bytes come from.
#[derive(Debug)]
enum Origin {
    Http(Box<Download>),
    File(tokio::fs::File),
}

/// The bytes of an image.
#[derive(Debug)]
pub(crate) struct Content(Origin);

#[derive(Debug)]
struct Download {
    http: Http,
    url: Url,
    headers: header::HeaderMap,
    response: Option<Response>,
    received: u64,
    total: Option<u64>,
    /// Names this version of the file: another one is not continued.
    tag: Option<header::HeaderValue>,
    attempts: u32,
}

impl Content {
    /// A file of this host.
    pub(super) fn file(file: std::fs::File) -> Self {
        Self(Origin::File(tokio::fs::File::from_std(file)))
    }

    /// A file at a URL, and its size if the server says.
    pub(super) async fn get(http: &Http, url: Url) -> Result<(Self, Option<u64>), SourceError> {
        Self::get_with(http, url, header::HeaderMap::new()).await
    }

    /// The same with further headers.
    pub(super) async fn get_with(
        http: &Http,
        url: Url,
        headers: header::HeaderMap,
    ) -> Result<(Self, Option<u64>), SourceError> {
        let response = http.get(&url, headers.clone()).await?;
        let total = length(&response);
        let tag = response
            .headers()
            .get(header::ETAG)
            .or_else(|| response.headers().get(header::LAST_MODIFIED))
            .cloned();
        let response = Some(response);
        let http = http.clone();
        let download = Download { http, url, headers, response, received: 0, total, tag, attempts: 0 };
        Ok((Self(Origin::Http(Box::new(download))), total))
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        match &mut self.0 {
            Origin::Http(download) => download.next().await,
            Origin::File(file) => {
                let mut piece = BytesMut::with_capacity(PIECE);
                let count = file.read_buf(&mut piece).await;
                let count =
                    count.map_err(|error| SourceError::Failed(format!("reading the file: {error}")))?;
                Ok((count > 0).then(|| piece.freeze()))
            }
        }
    }
}

/// Bytes of an answer, as it says.
fn length(response: &Response) -> Option<u64> {
    let text = response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?;
    text.parse().ok()
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            let Some(response) = &mut self.response else {
                self.go_on().await?;
                continue;
            };
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.received += chunk.len() as u64;
                    self.attempts = 0;
                    return Ok(Some(chunk));
                }
                Ok(None) if self.total.is_none_or(|total| self.received >= total) => return Ok(None),
                Ok(None) => self.broken("the connection ended too early".to_owned()).await?,
                Err(error) => match SourceError::request(&http::at(&self.url), &error.without_url()) {
                    SourceError::Failed(why) => self.broken(why).await?,
                    refused => return Err(refused),
                },
            }
        }
    }

    /// Waits before the next attempt, unless it was the last.
    async fn broken(&mut self, why: String) -> Result<(), SourceError> {
        self.response = None;
        self.attempts += 1;
        let can_go_on = self.received == 0 || self.tag.is_some();
        if self.attempts >= ATTEMPTS || !can_go_on {
            return Err(SourceError::Failed(format!("{why} (after {} bytes)", self.received)));
        }
        tracing::info!(
            url = http::at(&self.url),
            received = self.received,
            why,
            "going on where the connection broke"
        );
        tokio::time::sleep(Duration::from_millis(200) * self.attempts).await;
        Ok(())
    }

    /// Asks for the rest of the same version; for all of it while nothing has come: the import may have waited so long
    /// for its turn that the server has hung up.
    async fn go_on(&mut self) -> Result<(), SourceError> {
        let mut headers = self.headers.clone();
        if self.received == 0 {
            let response = self.http.get(&self.url, headers).await?;
            if length(&response) != self.total {
                return Err(SourceError::Failed(format!("{}: the file has changed", http::at(&self.url))));
            }
            self.response = Some(response);
            return Ok(());
        }
        let range = format!("bytes={}-", self.received);
        headers.extend(http::headers(&[("range", &range)]));
        if let Some(tag) = &self.tag {
            headers.insert(header::IF_RANGE, tag.clone());
        }
        match self.http.send(Method::GET, &self.url, headers).await {
            Ok(response)
                if response.status() == StatusCode::PARTIAL_CONTENT
                    && starts_at(&response, self.received) =>
            {
                self.response = Some(response);
                Ok(())
            }
            Ok(response) if response.status().is_server_error() => {
                self.broken(format!("the server answered {}", response.status())).await
            }
            Ok(response) => Err(SourceError::Failed(format!(
                "{}: the connection broke after {} bytes, and the server gives no rest ({})",
                http::at(&self.url),
                self.received,
                response.status()
            ))),
            Err(SourceError::Failed(why)) => self.broken(why).await,
            Err(error) => Err(error),
        }
    }
}

fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}
