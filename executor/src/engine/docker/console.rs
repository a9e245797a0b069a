//! People at a session, in Docker's words.

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters as query;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Docker, engine_error, present};
use crate::engine::EngineError;
use crate::engine::console::{Console, Ending, Piece, Pieces, Program, Size, Streams};

impl Docker {
    fn pieces(
        &self,
        action: String,
        stream: impl futures_util::Stream<Item = Result<LogOutput, Error>> + Send + 'static,
    ) -> Pieces {
        let address = self.address.clone();
        let piece = |output: LogOutput| Piece {
            is_error: matches!(output, LogOutput::StdErr { .. }),
            bytes: output.into_bytes(),
        };
        stream.map_ok(piece).map_err(move |e| engine_error(&address, &action, e)).boxed()
    }
}

impl Console for Docker {
    async fn attach(&self, container: &str, replay: bool) -> Result<Streams, EngineError> {
        let action = format!("attach to `{container}`");
        let options = query::AttachContainerOptionsBuilder::default()
            .stream(true)
            .logs(replay)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = self.slow.attach_container(container, Some(options)).await;
        let attached = attached.map_err(self.failed(&action))?;
        Ok(Streams { output: self.pieces(action, attached.output), input: attached.input })
    }

    async fn resize(&self, container: &str, size: Size) -> Result<(), EngineError> {
        let options = query::ResizeContainerTTYOptionsBuilder::default()
            .h(size.rows.into())
            .w(size.columns.into())
            .build();
        let resized = self.quick.resize_container_tty(container, options).await;
        resized.map_err(self.failed(&format!("resize the terminal of `{container}`")))
    }

    async fn run(
        &self,
        container: &str,
        program: &Program,
    ) -> Result<(String, Streams), EngineError> {
        let action = format!("run a program in `{container}`");
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(program.terminal),
            cmd: Some(program.argv.clone()),
            env: Some(program.env.clone()),
            working_dir: program.workdir.clone(),
            ..Default::default()
        };
        let created = self.quick.create_exec(container, options).await;
        let id = created.map_err(self.failed(&action))?.id;
        let options =
            StartExecOptions { detach: false, tty: program.terminal, output_capacity: None };
        let started = self.slow.start_exec(&id, Some(options)).await;
        match started.map_err(self.failed(&action))? {
            StartExecResults::Attached { output, input } => {
                Ok((id, Streams { output: self.pieces(action, output), input }))
            }
            StartExecResults::Detached => {
                Err(EngineError::Refused { action, message: "it detached".to_owned() })
            }
        }
    }

    async fn resize_run(&self, id: &str, size: Size) -> Result<(), EngineError> {
        let options = query::ResizeExecOptionsBuilder::default()
            .h(size.rows.into())
            .w(size.columns.into())
            .build();
        let resized = self.quick.resize_exec(id, options).await;
        resized.map_err(self.failed("resize a program's terminal"))
    }

    async fn run_code(&self, id: &str) -> Result<i64, EngineError> {
        self.exec_code(id).await
    }

    fn log(&self, container: &str, lines: Option<u32>, follow: bool) -> Pieces {
        let tail = lines.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = query::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail)
            .build();
        let stream = self.slow.logs(container, Some(options));
        self.pieces(format!("read the log of `{container}`"), stream)
    }

    async fn ending(&self, container: &str) -> Result<Option<Ending>, EngineError> {
        use bollard::models::ContainerStateStatusEnum as S;
        let options = None::<query::InspectContainerOptions>;
        let answer = self.quick.inspect_container(container, options).await;
        let found = present(answer.map_err(self.failed("inspect a container")))?;
        let Some(state) = found.and_then(|found| found.state) else { return Ok(None) };
        if !matches!(state.status, Some(S::EXITED | S::DEAD)) {
            return Ok(None);
        }
        Ok(Some(Ending {
            code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            started_at: state.started_at.unwrap_or_default(),
            finished_at: state.finished_at.unwrap_or_default(),
        }))
    }

    async fn wait(&self, container: &str) -> Result<i64, EngineError> {
        let action = format!("wait for `{container}`");
        loop {
            let mut stream = self.slow.wait_container(container, None);
            match stream.next().await {
                Some(Ok(ended)) => return Ok(ended.status_code),
                // How bollard tells an exit code that is not 0.
                Some(Err(Error::DockerContainerWaitError { code, .. })) => return Ok(code),
                // A session may run for longer than any call.
                Some(Err(Error::RequestTimeoutError)) | None => {}
                Some(Err(error)) => return Err(self.failed(&action)(error)),
            }
        }
    }
}
