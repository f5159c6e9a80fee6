//! The scenario's end of a helper process: orders to it, replies and reports from it.

use crate::process::in_namespace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The longest that an order may take: opening all connections anew waits for timeouts, and so does a report for short
/// connections under way.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a helper may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A helper process; it ends with this value.
pub struct Helper {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    next_id: u64,
}

impl Helper {
    /// Starts `evenkeel lab member …` in a namespace and waits until it says that it is ready. `exe` is the path of
    /// `evenkeel`, `arguments` begin with the member's name.
    ///
    /// # Errors
    /// It cannot be started, or does not get ready.
    pub fn start(namespace: &str, exe: &str, arguments: &[String]) -> Result<Self> {
        let mut command = vec![exe.to_owned(), "lab".to_owned(), "member".to_owned()];
        command.extend_from_slice(arguments);
        let mut child = in_namespace(namespace, &command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", command.join(" ")))?;
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        // Ends with the helper's output.
        std::thread::spawn(move || {
            let values = stdout
                .lines()
                .map_while(Result::ok)
                .filter_map(|l| serde_json::from_str::<Value>(&l).ok());
            values.into_iter().try_for_each(|value| sender.send(value))
        });
        let stdin = child.stdin.take();
        let mut helper = Self {
            name: arguments[0].clone(),
            child,
            stdin,
            lines,
            next_id: 0,
        };
        helper.wait_for(|line| line.get("ready").is_some())?;
        Ok(helper)
    }

    /// Gives an order and waits for its reply.
    ///
    /// # Errors
    /// It is gone, does not answer in time or does not know the order.
    pub fn order(&mut self, verb: &str) -> Result<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let stdin = self.stdin.as_mut().context("the helper was ended")?;
        writeln!(stdin, "{id} {verb}").with_context(|| format!("{} is gone", self.name))?;
        let reply = self.wait_for(|line| line["reply"] == id)?;
        ensure!(
            reply.get("error").is_none(),
            "{}: {}",
            self.name,
            reply["error"]
        );
        Ok(reply)
    }

    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + REPLY_TIMEOUT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(_) => (),
                Err(_) => break,
            }
        }
        bail!(
            "{} does not answer ({:?})",
            self.name,
            self.child.try_wait()
        )
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let ended =
            crate::process::wait_for(END_TIMEOUT, || !matches!(self.child.try_wait(), Ok(None)));
        if !ended {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
