//! The listeners, and the doors that are open whatever becomes of the node: gRPC and HTTP.

use std::net::SocketAddr;

use highwater_coordinator::ControlDoor;
use highwater_model::limits::DOORS_CLOSE_WAIT;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ServeError;
use crate::settings::{Address, Settings};
use crate::slot::Slot;
use crate::{grpc, http};

/// The three listeners, bound but not yet served: a client that comes early waits in the backlog.
pub(super) struct Doors {
    kafka: TcpListener,
    grpc: TcpListener,
    http: TcpListener,
    pub addresses: Addresses,
}

#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub kafka: SocketAddr,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

impl Doors {
    pub(super) async fn bind(settings: &Settings) -> Result<Doors, ServeError> {
        let (kafka, kafka_address) = listen("kafka", &settings.kafka).await?;
        let (grpc, grpc_address) = listen("grpc", &settings.grpc).await?;
        let (http, http_address) = listen("http", &settings.http).await?;
        let addresses = Addresses { kafka: kafka_address, grpc: grpc_address, http: http_address };
        Ok(Doors { kafka, grpc, http, addresses })
    }

    /// Opens the doors of other nodes and of operators, which come before the node; the clients' is left.
    pub(super) fn open(self) -> (OpenDoors, TcpListener) {
        let (slot, control, stop) = (Slot::default(), ControlDoor::default(), watch::Sender::new(false));
        let mut serving = JoinSet::new();
        let failed = |door: &'static str, reason: String| ServeError::Door { door, reason };
        let grpc = grpc::serve(slot.clone(), control.clone(), self.grpc, stop.subscribe());
        serving.spawn(async move { grpc.await.map_err(|e| failed("grpc", e.to_string())) });
        let http = http::serve(slot.clone(), self.http, stop.subscribe());
        serving.spawn(async move { http.await.map_err(|e| failed("http", e.to_string())) });
        (OpenDoors { slot, control, stop, serving }, self.kafka)
    }
}

/// The doors that are open whatever becomes of the node.
pub(super) struct OpenDoors {
    pub slot: Slot,
    pub control: ControlDoor,
    stop: watch::Sender<bool>,
    serving: JoinSet<Result<(), ServeError>>,
}

impl OpenDoors {
    /// Returns only when a door has failed.
    pub(super) async fn ended(&mut self) -> ServeError {
        match self.serving.join_next().await {
            Some(ended) => door_error(ended, "grpc or http"),
            None => std::future::pending().await,
        }
    }

    pub(super) async fn close(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.serving.join_next().await.is_some() {} };
        if tokio::time::timeout(DOORS_CLOSE_WAIT, ended).await.is_err() {
            self.serving.shutdown().await;
        }
    }
}

async fn listen(door: &'static str, address: &Address) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { door, address: address.clone(), source };
    let listener = TcpListener::bind((address.host.as_str(), address.port)).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

pub(super) fn door_error(
    ended: Result<Result<(), ServeError>, tokio::task::JoinError>,
    door: &'static str,
) -> ServeError {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => ServeError::Door { door, reason: "it closed by itself".to_owned() },
        Err(error) => ServeError::Door { door, reason: error.to_string() },
    }
}
