//! A git host over https: `git http-backend` behind TLS, with one account.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// A running server; it ends when this goes.
#[derive(Debug)]
pub struct GitHttp {
    address: SocketAddr,
    // The thread ends when this goes.
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Host {
    root: PathBuf,
    authorization: String,
}

impl GitHttp {
    /// Serves the repositories below a folder to whoever brings this account, `user:password`.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn serve(
        at: impl Into<SocketAddr>,
        config: Arc<ServerConfig>,
        root: impl Into<PathBuf>,
        account: &str,
    ) -> Self {
        let listener = std::net::TcpListener::bind(at.into()).expect("the address is free");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let account = base64::engine::general_purpose::STANDARD.encode(account);
        let host = Host { root: root.into(), authorization: format!("Basic {account}") };
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, config.into(), Arc::new(host)) => {}
                    // Its sender is never used: that it goes is the sign.
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { address, _stop: stop }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, host: Arc<Host>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, host) = (tls.clone(), Arc::clone(&host));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let host = Arc::clone(&host);
                async move { Ok::<_, Infallible>(answer(request, host).await) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            // How a connection breaks is its client's affair.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, host: Arc<Host>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    if header("authorization") != host.authorization {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        let realm = HeaderValue::from_static("Basic realm=\"git\"");
        response.headers_mut().insert("www-authenticate", realm);
        return response;
    }
    let Ok(body) = body.collect().await else { return Response::new(Full::default()) };
    let mut backend = Command::new("git");
    backend
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &host.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "somebody")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("CONTENT_LENGTH", "");
    let body = body.to_bytes();
    backend.env("CONTENT_LENGTH", body.len().to_string());
    let output = tokio::task::spawn_blocking(move || run(backend, &body)).await;
    said(&output.expect("the backend runs"))
}

fn run(mut backend: Command, body: &[u8]) -> Vec<u8> {
    let backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = backend.spawn().expect("git is there");
    let mut stdin = child.stdin.take().expect("piped");
    let body = body.to_vec();
    // It may answer before it has read everything.
    let writer = thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().expect("it ends").stdout;
    let _ = writer.join();
    output
}

/// What a CGI program answers (RFC 3875, section 6), as a response.
fn said(output: &[u8]) -> Response<Full<Bytes>> {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let body = output.get(end + 4..).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body)));
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name == "Status" {
            let code = value.split(' ').next().and_then(|code| code.parse::<u16>().ok());
            let code = code.and_then(|code| StatusCode::from_u16(code).ok());
            *response.status_mut() = code.unwrap_or(StatusCode::BAD_GATEWAY);
        } else if let (Ok(name), Ok(value)) =
            (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}
