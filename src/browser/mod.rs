//! The browser console: a guest's screen in a browser, over a link that opens once.
//!
//! ```text
//!   browser ──TLS──▶ link ──fresh──▶ page, noVNC ──▶ WebSocket (the link is used up) ◀──RFB──▶ hypervisor
//!                      │
//!                      └─ else: 404, whatever was asked for
//! ```
//!
//! There is no client certificate here: the link says who opens it, and for what. It was made over the API in
//! somebody's name, and the screen is cut when that person's certificate is no longer accepted.

mod page;
mod screen;
mod server;

pub use server::{Browser, serve};

const GONE: &str = "This link is not good: it was opened before, or its time is over, or it never was one.\n\
                    Make another: vmadm vnc --browser UUID\n";

async fn gone() -> axum::response::Response {
    axum::response::IntoResponse::into_response((axum::http::StatusCode::NOT_FOUND, GONE))
}
