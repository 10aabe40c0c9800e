//! A web server on loopback, for images: paths and what they answer.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// What a path answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// What it makes of the number of the requests before, to all paths.
    Each(Arc<dyn Fn(usize) -> Bytes + Send + Sync>),
    /// These bytes; a range of them if asked.
    Bytes(Bytes),
    /// Another place.
    Redirect(String),
    /// A status alone.
    Status(u16),
    /// So many of the bytes, and then the connection breaks; ranges are answered.
    Breaks(Bytes, usize),
    /// So many of the bytes, and then nothing.
    Stalls(Bytes, usize),
    /// With headers of its own.
    With(Vec<(&'static str, String)>, Bytes),
    /// Wants a bearer token from there.
    Login(String, Bytes),
}

/// The server; it ends when dropped.
pub(crate) struct Web {
    pub(crate) address: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Web {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let (answers, asked) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(Mutex::new(Vec::new())));
        let (known, seen) = (answers.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (known, seen) = (known.clone(), seen.clone());
                let service = service_fn(move |request| {
                    let (known, seen) = (known.clone(), seen.clone());
                    async move { Ok::<_, Infallible>(answer(&known, &seen, &request)) }
                });
                connections.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, answers, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Sets what a path answers.
    pub(crate) fn put(&self, path: &str, answer: Answer) {
        self.answers.lock().expect("lock").insert(path.to_owned(), answer);
    }

    pub(crate) fn bytes(&self, path: &str, bytes: impl Into<Bytes>) {
        self.put(path, Answer::Bytes(bytes.into()));
    }

    /// A URL of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it was asked for: method, path and query, range.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }
}

fn full(status: u16, bytes: Bytes) -> Response<Body> {
    let body = Full::new(bytes).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("status");
    response
}

fn answer(
    answers: &Mutex<HashMap<String, Answer>>,
    asked: &Mutex<Vec<String>>,
    request: &Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()).map(str::to_owned);
    let line = format!("{} {} {}", request.method(), request.uri(), range.as_deref().unwrap_or(""));
    asked.lock().expect("lock").push(line.trim().to_owned());
    let is_logged_in =
        request.headers().get(header::AUTHORIZATION).is_some_and(|value| value == "Bearer good");
    let found = answers.lock().expect("lock").get(&path).cloned();
    match found {
        None => full(404, Bytes::new()),
        Some(Answer::Each(make)) => full(200, make(asked.lock().expect("lock").len())),
        Some(Answer::Status(status)) => full(status, Bytes::new()),
        Some(Answer::Redirect(place)) => with(full(302, Bytes::new()), header::LOCATION.as_str(), &place),
        Some(Answer::Bytes(bytes)) => part(bytes, range.as_deref()),
        Some(Answer::With(headers, bytes)) => {
            headers.iter().fold(full(200, bytes), |response, (name, value)| with(response, name, value))
        }
        Some(Answer::Login(_, bytes)) if is_logged_in => part(bytes, range.as_deref()),
        Some(Answer::Login(realm, _)) => {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:a:pull\"");
            with(full(401, Bytes::new()), "www-authenticate", &challenge)
        }
        Some(Answer::Breaks(bytes, at)) if range.is_none() => cut(bytes, at, true),
        Some(Answer::Breaks(bytes, _)) => part(bytes, range.as_deref()),
        Some(Answer::Stalls(bytes, at)) => cut(bytes, at, false),
    }
}

fn with(mut response: Response<Body>, name: &str, value: &str) -> Response<Body> {
    let name = header::HeaderName::from_bytes(name.as_bytes()).expect("name");
    response.headers_mut().insert(name, value.parse().expect("value"));
    response
}

fn part(bytes: Bytes, range: Option<&str>) -> Response<Body> {
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok());
    let all = bytes.len();
    let response = match start {
        None => full(200, bytes),
        Some(start) => {
            let range = format!("bytes {start}-{}/{all}", all - 1);
            with(full(206, bytes.slice(start..)), "content-range", &range)
        }
    };
    with(response, "etag", "\"v1\"")
}

/// A beginning, under the length of the whole.
fn cut(bytes: Bytes, at: usize, breaks: bool) -> Response<Body> {
    let all = bytes.len();
    let first = futures_util::stream::once(async move { Ok(Frame::data(bytes.slice(..at))) });
    let rest = futures_util::stream::once(async move {
        if !breaks {
            std::future::pending::<()>().await;
        }
        Err(std::io::Error::other("broken"))
    });
    let body = StreamBody::new(futures_util::StreamExt::chain(first, rest));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(header::CONTENT_LENGTH, all.into());
    with(response, "etag", "\"v1\"")
}
