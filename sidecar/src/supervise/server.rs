//! The MCP server: one tool a call, which waits until a person answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::proposal::{Answer, Ask, Unaskable};
use bottle_planner::proposed_image::check;
use bottle_planner::words::Timestamp;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities,
    ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval};

use super::listening::Listening;
use super::routes;
use super::store::{Kept, Store};
use super::tools;
use crate::log;

/// How often the answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a call goes on without a client: it may come back for the answer (MCP's resumption).
const ALONE: Duration = Duration::from_secs(60);
/// How often a client is told that the call still waits: well below any client's own limit.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What one client talks to.
#[derive(Debug, Clone)]
pub(super) struct Supervise {
    pub(super) store: Arc<Store>,
    /// Where egress shows the routes in force.
    pub(super) egress: SocketAddr,
    /// How long a call waits for a person.
    pub(super) patience: Duration,
    /// Room for calls that wait.
    pub(super) waiting: Arc<Semaphore>,
    /// The Dockerfile in force.
    pub(super) dockerfile: PathBuf,
    /// Bases that a proposed one may name, beside those of the one in force.
    pub(super) allow_from: BTreeSet<String>,
}

impl ServerHandler for Supervise {
    fn get_info(&self) -> ServerConfig {
        let mut config = ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_instructions(
                "You run in a container that reaches only what was granted. What you need beyond \
                 that you ask a person for with these tools. A call waits for the answer.",
            );
        config.server_info = Implementation::new("bottle", env!("CARGO_PKG_VERSION"));
        config
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = tools::own_name(&request.name).to_owned();
        if name == tools::LIST {
            return Ok(self.list().await.into());
        }
        if ![tools::EGRESS, tools::IMAGE, tools::PUSH].contains(&name.as_str()) {
            let known = [tools::LIST, tools::EGRESS, tools::IMAGE, tools::PUSH].join(", ");
            let message = format!("there is no such tool; expected one of {known}");
            return Err(ErrorData::invalid_params(message, None));
        }
        let asked = tools::asked(&name, request.arguments.unwrap_or_default());
        let kept = asked.and_then(|(ask, why)| {
            self.check_image(&ask)?;
            self.store.keep(ask, &why, now()?)
        });
        Ok(match kept {
            Err(error) => CallToolResult::error(vec![ContentBlock::text(error.0)]).into(),
            Ok(Kept::Answered(id, answer)) => self.tell(&id, &answer, &context).into(),
            Ok(Kept::Pending(id)) => self.wait(&id, &context).await.into(),
        })
    }
}

impl Supervise {
    /// What a person would be refused too is answered at once.
    fn check_image(&self, ask: &Ask) -> Result<(), Unaskable> {
        let Ask::Image { dockerfile, .. } = ask else { return Ok(()) };
        let in_force = std::fs::read_to_string(&self.dockerfile).unwrap_or_default();
        check(dockerfile, &self.allow_from, &in_force)
            .map_err(|findings| Unaskable(format!("`dockerfile`: {}", findings.join("; "))))
    }

    async fn list(&self) -> CallToolResult {
        match routes::in_force(self.egress).await {
            Ok(mut shown) => {
                if let Ok(dockerfile) = tokio::fs::read_to_string(&self.dockerfile).await {
                    shown["dockerfile"] = Value::String(dockerfile);
                }
                CallToolResult::structured(shown)
            }
            Err(error) => {
                let text = format!("egress does not say which routes are in force: {error}");
                CallToolResult::error(vec![ContentBlock::text(text)])
            }
        }
    }

    /// Waits until a person answers, the client gives up, or the time is up. The proposal stays in
    /// either case: who asks again waits on.
    async fn wait(&self, id: &str, context: &RequestContext<RoleServer>) -> CallToolResult {
        let Ok(_room) = self.waiting.try_acquire() else {
            return waited(id, "too many calls wait already");
        };
        let begun = Instant::now();
        let mut heard = begun;
        let mut look = interval(LOOK_EVERY);
        let mut say = interval(SAY_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if let Some(answer) = self.store.answer(id) {
                        return self.tell(id, &answer, context);
                    }
                    if Listening::is_heard(context) {
                        heard = Instant::now();
                    } else if heard.elapsed() >= ALONE {
                        return waited(id, "nobody listens to this call");
                    }
                    if begun.elapsed() >= self.patience {
                        return waited(id, "nobody answered in time");
                    }
                }
                _ = say.tick() => self.say(id, begun.elapsed(), context).await,
                () = context.ct.cancelled() => return waited(id, "the call was cancelled"),
            }
        }
    }

    /// What nobody hears is told to who asks again.
    fn tell(
        &self,
        id: &str,
        answer: &Answer,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResult {
        if Listening::is_heard(context) {
            self.store.note_told(id);
        }
        told(id, answer)
    }

    async fn say(&self, id: &str, waited: Duration, context: &RequestContext<RoleServer>) {
        let Some(token) = context.meta.get_progress_token() else { return };
        let mut progress = ProgressNotificationParam::new(token, waited.as_secs_f64());
        progress.message = Some(format!("request {id} waits for a person"));
        // A client that is gone is noticed where it matters.
        let _ = context.peer.notify_progress(progress).await;
    }
}

/// The time of day to the second, as documents have it.
fn now() -> Result<Timestamp, Unaskable> {
    let now = log::now();
    let seconds = now.split('.').next().unwrap_or_default();
    Timestamp::new(format!("{seconds}Z")).map_err(|e| Unaskable(e.to_string()))
}

fn told(id: &str, answer: &Answer) -> CallToolResult {
    let verdict = answer.verdict.as_str();
    CallToolResult::structured(json!({
        "request": id,
        "answer": verdict,
        "notes": answer.notes,
        "granted": answer.granted,
    }))
}

fn waited(id: &str, why: &str) -> CallToolResult {
    let text = format!(
        "{why}: request {id} stays with the person. Go on with what you can do without it, and ask \
         the same again to wait on."
    );
    CallToolResult::error(vec![ContentBlock::text(text)])
}
