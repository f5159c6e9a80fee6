//! Bodies on their way: of requests with a time for each read, of answers with what is held until they have gone.

use super::answer::Answering;
use super::upstream::Lease;
use crate::client::Client;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub(super) struct RequestBody {
    /// `None` = it has none.
    from: Option<Incoming>,
    patience: Patience,
    late: Late,
    _answering: Option<Rc<Answering>>,
}

/// The wait for more of a body; it begins with the first read that finds nothing.
#[derive(Default)]
struct Patience {
    /// `None` = it has no end.
    timeout: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl Patience {
    fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            ..Self::default()
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let Some(timeout) = self.timeout else {
            return Poll::Pending;
        };
        let timer = self.sleep.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if !std::mem::replace(&mut self.is_waiting, true) {
            timer.as_mut().reset(Instant::now() + timeout);
        }
        let over = timer.as_mut().poll(context);
        over.map(|()| io::ErrorKind::TimedOut.into())
    }
}

/// Whether a client has taken too long for the body of its request.
pub(super) type Late = Rc<Cell<bool>>;

impl RequestBody {
    /// `answering`: the request is not over before all of this has come.
    pub(super) fn new(
        from: Incoming,
        timeout: Option<Duration>,
        (late, answering): (Late, Rc<Answering>),
    ) -> Self {
        Self {
            from: Some(from),
            patience: Patience::new(timeout),
            late,
            _answering: Some(answering),
        }
    }

    pub(super) fn none() -> Self {
        Self {
            from: None,
            patience: Patience::default(),
            late: Late::default(),
            _answering: None,
        }
    }

    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let late = &self.late;
        self.patience.poll(context).map(|error| {
            late.set(true);
            error
        })
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(from) = self.from.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(from).poll_frame(context) {
            Poll::Ready(frame) => {
                self.patience.is_waiting = false;
                Poll::Ready(frame.map(|f| f.map_err(BoxError::from)))
            }
            Poll::Pending => self.poll_late(context).map(|error| Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.from.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.from
            .as_ref()
            .map_or_else(none, |body| body.size_hint())
    }
}

/// The body of an answer.
pub(super) struct Body {
    from: From,
    is_over: bool,
    /// With the server.
    patience: Patience,
    lease: Option<Lease>,
    answering: Option<Rc<Answering>>,
    /// Whose answer it is, and of which kind: one that has gone is counted.
    answer: Option<(Rc<Client>, StatusCode)>,
}

enum From {
    /// Ours; `None` when it has gone.
    Text(Option<Bytes>),
    Server(Incoming),
}

impl Body {
    pub(super) fn text(text: String) -> Self {
        Self::new(From::Text(Some(text.into())), None)
    }

    pub(super) fn none() -> Self {
        Self::new(From::Text(None), None)
    }

    /// A server's; the lease ends when all of it has gone.
    pub(super) fn server(from: Incoming, lease: Lease) -> Self {
        let patience = Patience::new(Some(lease.upstream.patience()));
        let mut body = Self::new(From::Server(from), Some(lease));
        body.patience = patience;
        body
    }

    fn new(from: From, lease: Option<Lease>) -> Self {
        Self {
            from,
            is_over: false,
            patience: Patience::default(),
            lease,
            answering: None,
            answer: None,
        }
    }

    /// The request is over when all of this has gone, which is the answer to this client.
    pub(super) fn hold(&mut self, answering: Rc<Answering>, answer: (Rc<Client>, StatusCode)) {
        self.answering = Some(answering);
        self.answer = Some(answer);
    }

    /// Ours are in one piece; to HEAD the codec sends their header alone, and that is all.
    fn is_whole(&self) -> bool {
        self.is_over || matches!(self.from, From::Text(_)) || self.is_end_stream()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.is_whole() {
            return;
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        if let Some((client, status)) = self.answer.take() {
            client.service.counters.responses.count(status);
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = (match &mut self.from {
            From::Text(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            From::Server(body) => Pin::new(body).poll_frame(context),
        }) else {
            let over = self.patience.poll(context);
            return over.map(|error| Some(Err(error.into())));
        };
        self.patience.is_waiting = false;
        self.is_over |= frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Text(text) => text.is_none(),
            From::Server(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            From::Server(body) => body.size_hint(),
        }
    }
}
