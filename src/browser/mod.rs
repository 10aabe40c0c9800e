//! The browser console: a guest's screen in a browser, over a link that opens once.
//!
//! ```text
//!   browser ──TLS──▶ link ──fresh──▶ page, noVNC ──▶ WebSocket (the link is used up) ◀──RFB──▶ hypervisor
//!                      │
//!                      └─ else: 404, whatever was asked for
//! ```
//!
//! There is no client certificate here: the link identifies its creator and the VM. It was created over the
//! API, and the screen is cut when the creator's certificate is no longer accepted.

mod page;
mod screen;
mod server;

pub use server::{Browser, serve};

const GONE: &str = "This link is not valid: it was opened before, has expired, or never existed.\n\
                    Create another: vmadm vnc --browser UUID\n";

async fn gone() -> axum::response::Response {
    axum::response::IntoResponse::into_response((axum::http::StatusCode::NOT_FOUND, GONE))
}
