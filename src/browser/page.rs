//! The pages of the browser console: none without a fresh link.

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tower_http::services::ServeDir;

use super::{Browser, screen};

/// For every answer: nothing is kept, nothing is framed, and scripts are ours alone.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
];

pub(super) fn routes(browser: Browser) -> Router {
    let novnc = ServeDir::new(&browser.agent.config().browser.novnc).append_index_html_on_directories(false);
    Router::new()
        .route("/{token}/", get(|| file("text/html; charset=utf-8", include_str!("page.html"))))
        .route("/{token}/page.css", get(|| file("text/css", include_str!("page.css"))))
        .route("/{token}/page.js", get(|| file("text/javascript", include_str!("page.js"))))
        .route("/{token}/machine", get(machine))
        .route("/{token}/screen", get(screen::open))
        .nest_service("/{token}/novnc", novnc)
        .fallback(super::gone)
        .layer(middleware::from_fn_with_state(browser.clone(), guard))
        .with_state(browser)
}

/// Admits requests whose path begins with a fresh link.
async fn guard(State(browser): State<Browser>, request: Request, next: Next) -> Response {
    let token = request.uri().path().split('/').nth(1).unwrap_or_default();
    let mut response = match browser.links.peek(token) {
        Some(_) => next.run(request).await,
        None => super::gone().await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The page's data on the VM.
async fn machine(
    State(browser): State<Browser>,
    Path(token): Path<String>,
) -> Result<Json<Value>, StatusCode> {
    let link = browser.links.peek(&token).ok_or(StatusCode::NOT_FOUND)?;
    let vm = browser.agent.vm(link.vm).map_err(|_| StatusCode::NOT_FOUND)?;
    Ok(Json(json!({"uuid": link.vm, "alias": vm.spec.alias})))
}
