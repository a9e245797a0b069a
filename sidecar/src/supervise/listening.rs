//! Whether anybody still listens to a call. A connection that breaks cancels nothing in MCP, so the
//! call goes on; but what nobody heard does not count as told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use rmcp::RoleServer;
use rmcp::service::RequestContext;

/// One request's: its handler finds it among the extensions.
#[derive(Debug, Clone)]
pub(super) struct Listening(Arc<AtomicBool>);

impl Listening {
    /// Puts one into the request's extensions.
    pub(super) fn begin<B>(request: &mut Request<B>) -> Self {
        let listening = Self(Arc::new(AtomicBool::new(true)));
        request.extensions_mut().insert(listening.clone());
        listening
    }

    /// Nobody listens once the response is dropped: it was read to its end, or its connection broke.
    pub(super) fn until_dropped(
        self,
        response: Response<BoxBody<Bytes, Infallible>>,
    ) -> Response<BoxBody<Bytes, Infallible>> {
        let gone = Gone(self);
        response.map(|body| {
            let kept = move |frame| {
                let _ = &gone;
                frame
            };
            body.map_frame(kept).boxed()
        })
    }

    /// Whether somebody listens to the call of this context. Nobody knows of one without a request.
    pub(super) fn is_heard(context: &RequestContext<RoleServer>) -> bool {
        let parts = context.extensions.get::<Parts>();
        let listening = parts.and_then(|parts| parts.extensions.get::<Self>());
        listening.is_none_or(|listening| listening.0.load(Ordering::Acquire))
    }
}

/// Says so when it is dropped.
#[derive(Debug)]
struct Gone(Listening);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}
