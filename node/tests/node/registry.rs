//! A registry on the loopback, where engines speak plain HTTP: it holds what a test puts into it, counts what it is asked, and has
//! moods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What is in it, and how it answers.
#[derive(Default)]
pub(crate) struct Shelf {
    manifests: HashMap<String, Bytes>,
    blobs: HashMap<String, Bytes>,
    /// Pulls that were begun: how often a tag was asked for.
    pub(crate) asked: usize,
    /// So many pulls are answered 500.
    pub(crate) failures: usize,
    /// So many layers come half and then not on.
    pub(crate) stalls: usize,
    /// How long a layer takes to come.
    pub(crate) delay: Duration,
    /// What it says where it has nothing, instead of a few words.
    pub(crate) words: Option<String>,
    /// The `Authorization` that is wanted.
    pub(crate) wanted: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Registry {
    shelf: Arc<Mutex<Shelf>>,
    pub(crate) port: u16,
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self { shelf: Arc::default(), port: listener.local_addr().unwrap().port() };
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{name}/manifests/{reference}", get(manifest))
            .route("/v2/{name}/blobs/{digest}", get(blob))
            .layer(middleware::from_fn_with_state(registry.clone(), authorize))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        registry
    }

    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }

    /// A name in it that nothing has yet.
    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}/orca-test-{}:1", self.port, Uuid::now_v7())
    }

    /// Puts an image with one program in it under `name`; answers the digest of its manifest.
    pub(crate) fn put(&self, name: &str, program: &[u8]) -> String {
        let mut layer = tar::Builder::new(Vec::new());
        // Something of its own in each layer, so that an engine does not know it from another test.
        for (path, bytes) in [("probe", program), ("unique", Uuid::now_v7().to_string().as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            layer.append_data(&mut header, path, bytes).unwrap();
        }
        let layer = layer.into_inner().unwrap();
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "config": { "Entrypoint": ["/probe"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }))
        .unwrap();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "size": config.len(), "digest": digest(&config) },
            "layers": [{ "mediaType": LAYER, "size": layer.len(), "digest": digest(&layer) }],
        }))
        .unwrap();
        let (repository, tag) = name.rsplit_once('/').unwrap().1.split_once(':').unwrap();
        let known_as = digest(&manifest);
        let mut shelf = self.shelf();
        for reference in [tag, &known_as] {
            shelf.manifests.insert(format!("{repository}/{reference}"), manifest.clone().into());
        }
        for bytes in [config, layer] {
            shelf.blobs.insert(digest(&bytes), bytes.into());
        }
        known_as
    }
}

fn refusal(status: StatusCode, code: &str) -> Response {
    refused_with(status, code, "said the registry")
}

fn refused_with(status: StatusCode, code: &str, words: &str) -> Response {
    let body = json!({ "errors": [{ "code": code, "message": words }] }).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn authorize(State(registry): State<Registry>, request: Request, next: Next) -> Response {
    let wanted = registry.shelf().wanted.clone();
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.is_some() && wanted.as_deref() != given {
        let mut refusal = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, "Basic realm=\"orca\"".parse().unwrap());
        return refusal;
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert("docker-distribution-api-version", "registry/2.0".parse().unwrap());
    response
}

async fn manifest(
    State(registry): State<Registry>,
    method: Method,
    Path((name, reference)): Path<(String, String)>,
) -> Response {
    let mut shelf = registry.shelf();
    if !reference.contains(':') {
        shelf.asked += usize::from(method == Method::HEAD);
        if shelf.failures > 0 {
            // An engine whose first question is answered so asks a second time in another way.
            shelf.failures -= usize::from(method == Method::GET);
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN");
        }
    }
    let Some(bytes) = shelf.manifests.get(&format!("{name}/{reference}")).cloned() else {
        let words = shelf.words.clone().unwrap_or_else(|| "there is none".to_owned());
        return refused_with(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", &words);
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, MANIFEST.parse().unwrap());
    headers.insert("docker-content-digest", digest(&bytes).parse().unwrap());
    (headers, bytes).into_response()
}

async fn blob(State(registry): State<Registry>, Path((_, digest)): Path<(String, String)>) -> Response {
    let (bytes, is_stalled, delay) = {
        let mut shelf = registry.shelf();
        let Some(bytes) = shelf.blobs.get(&digest).cloned() else {
            return refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        };
        let is_layer = !bytes.starts_with(b"{");
        let is_stalled = is_layer && shelf.stalls > 0;
        shelf.stalls -= usize::from(is_stalled);
        (bytes, is_stalled, if is_layer { shelf.delay } else { Duration::ZERO })
    };
    let (first, rest) = (bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..));
    let rest = stream::once(async move {
        if is_stalled {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(delay).await;
        rest
    });
    let body = Body::from_stream(
        stream::once(std::future::ready(first)).chain(rest).map(Ok::<_, std::convert::Infallible>),
    );
    ([(CONTENT_LENGTH, bytes.len().to_string())], body).into_response()
}
