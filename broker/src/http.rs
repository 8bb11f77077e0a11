//! The HTTP door: `/metrics` (OpenMetrics text), `/healthz` (the process is alive), `/readyz` (it can serve).
//!
//! Must not: hold a request for long, or let slow clients collect: connections are bounded in number and in
//! age (invariant 16). What metrics need to know about the node is looked up when somebody asks.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use highwater_model::limits::{HTTP_CONNECTION_AGE_MAX, HTTP_CONNECTIONS_MAX};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use crate::control_metrics;
use crate::slot::Slot;
use crate::status;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `stop` turns true. It is up before the node: alive, but not ready.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(node: Slot, listener: TcpListener, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .fallback(not_found)
        .with_state(node);
    let listener = Bounded { listener, permits: Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX)) };
    let stopped = async move {
        // The sender lives as long as the node; if it is gone, so is the node.
        let _ = stop.wait_for(|stopping| *stopping).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

async fn metrics(State(slot): State<Slot>) -> Response {
    let text = match (slot.get(), slot.seated()) {
        (Some(node), _) => {
            status::refresh_metrics(node);
            node.metrics.render()
        }
        (None, Some(coordinator)) => control_metrics::render(&coordinator.status()),
        (None, None) => return (StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n").into_response(),
    };
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}

async fn health() -> Response {
    Json(json!({"status": "alive"})).into_response()
}

async fn ready(State(node): State<Slot>) -> Response {
    match node.not_ready() {
        None => Json(json!({"status": "ready"})).into_response(),
        Some(reason) => {
            let body = Json(json!({"status": "not ready", "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn not_found() -> Response {
    let body = json!({"error": "not found", "paths": ["/metrics", "/healthz", "/readyz"]});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// A listener whose connections are bounded in number and in age.
struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Aging;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Aging, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("it is never closed");
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        let age = Box::pin(tokio::time::sleep(HTTP_CONNECTION_AGE_MAX));
        (Aging { stream, age, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends at a certain age: reads and writes fail from then on.
struct Aging {
    stream: TcpStream,
    age: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Aging {
    fn poll_age(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.age.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Aging {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_age(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Aging {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_age(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
