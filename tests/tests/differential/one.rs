//! Both ends of a conversation in HTTP/1.
//!
//! Invariant: each end does what the script says, whatever the other does, and writes down what it sees.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};

use crate::script::{Cut, End, Exchange, Fields, Framing};
use crate::seen::{Answered, Asked, Closing, Content, Ending, may_go_on};
use crate::stage::{Current, Stage};
use crate::wire::{self, Head, Incoming, Reader};

/// Serves one connection.
pub(crate) async fn serve(current: &Current, stream: TcpStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    while let Some(head) = reader.head().await? {
        let Some((stage, index)) = current.find(&head.fields) else { return Ok(()) };
        let Some(script) = stage.script.exchanges.get(index) else {
            write.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            continue;
        };
        let mut asked = Asked {
            line: head.line.clone(),
            fields: stage.way.show(&stage.script, head.fields.clone()),
            ..Asked::default()
        };
        let mut incoming = head.body(false, true);
        let ends = exchange(&stage, index, script, &mut asked.body, &mut incoming, &mut reader, &mut write).await;
        stage.record(index, asked);
        let last = ends?.is_end() || script.answer.closes || head.says_close();
        if last {
            return write.shutdown().await;
        }
    }
    Ok(())
}

/// Whether the server's connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoesOn,
    End,
}

impl Next {
    fn is_end(self) -> bool {
        self == Self::End
    }
}

async fn exchange(
    stage: &Stage,
    index: usize,
    script: &Exchange,
    body: &mut Content,
    incoming: &mut Incoming,
    reader: &mut Reader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> io::Result<Next> {
    let answer = &script.answer;
    for (status, fields) in &answer.interim {
        write.write_all(&wire::head(&format!("HTTP/1.1 {status} Soon"), fields, &[], &NO_BODY)).await?;
    }
    if script.expects {
        write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let seen = |count| stage.server_has(index, count);
    seen(0);
    receive(body, incoming, reader, script.body.up_to(answer.after), answer.after != usize::MAX, seen).await;
    if !matches!(body.end, Ending::Whole | Ending::None) {
        return Ok(Next::End);
    }
    let mut more = announced(&answer.body.trailers);
    if answer.closes {
        more.push(("connection", "close".to_owned()));
    }
    let line = format!("HTTP/1.1 {} As Scripted", answer.status);
    write_chopped(write, &wire::head(&line, &answer.fields, &more, &answer.body), script.chop).await?;
    if has_body(script) {
        wire::write_body(write, &answer.body, index + 100).await?;
    }
    if let Some((count, cut)) = answer.body.cut {
        stage.until_client_has(index, answer.body.up_to(count)).await;
        break_off(write, cut).await?;
        return Ok(Next::End);
    }
    receive(body, incoming, reader, usize::MAX, false, seen).await;
    Ok(if body.end == Ending::Whole { Next::GoesOn } else { Next::End })
}

const NO_BODY: crate::script::Body =
    crate::script::Body { framing: Framing::Absent, pieces: Vec::new(), trailers: Vec::new(), cut: None };

fn has_body(script: &Exchange) -> bool {
    script.method != "HEAD" && !matches!(script.answer.status, 204 | 304)
}

/// Reads a body up to `goal` bytes if that is `enough`, else to its end.
async fn receive(
    content: &mut Content,
    incoming: &mut Incoming,
    reader: &mut Reader<impl AsyncRead + Unpin>,
    goal: usize,
    enough: bool,
    seen: impl Fn(usize),
) {
    while content.end == Ending::None && !(enough && content.bytes.len() >= goal) {
        match incoming.next(reader).await {
            Ok(Some(bytes)) => {
                content.bytes.extend(bytes);
                seen(content.bytes.len());
            }
            Ok(None) => {
                content.trailers = crate::seen::Shown(std::mem::take(&mut incoming.trailers));
                content.end = Ending::Whole;
            }
            Err(_) => content.end = Ending::Cut,
        }
    }
}

fn announced(trailers: &Fields) -> Vec<(&'static str, String)> {
    let names: Vec<_> = trailers.iter().map(|(name, _)| *name).collect();
    if names.is_empty() { Vec::new() } else { vec![("trailer", names.join(", "))] }
}

async fn write_chopped(write: &mut OwnedWriteHalf, bytes: &[u8], chop: usize) -> io::Result<()> {
    for part in bytes.chunks(chop) {
        write.write_all(part).await?;
    }
    Ok(())
}

async fn break_off(write: &mut OwnedWriteHalf, cut: Cut) -> io::Result<()> {
    match cut {
        Cut::Fin => write.shutdown().await,
        // Takes effect when the other half is dropped as well.
        Cut::Reset(_) => SockRef::from(write.as_ref()).set_linger(Some(Duration::ZERO)),
    }
}

impl Head {
    fn says_close(&self) -> bool {
        let close = |(name, value): &(String, Vec<u8>)| name == "connection" && value.eq_ignore_ascii_case(b"close");
        self.line.ends_with("HTTP/1.0") || self.fields.iter().any(close)
    }
}

/// How far a client has come, for its two directions to know of each other.
#[derive(Default)]
struct Progress {
    answered: watch::Sender<usize>,
    continued: watch::Sender<usize>,
    /// The connection was reset by the client itself.
    reset: Notify,
}

/// The client's end.
pub(crate) async fn talk(stage: &Arc<Stage>, stream: TcpStream) -> (Vec<Answered>, Closing) {
    let (read, write) = stream.into_split();
    let progress = Progress::default();
    let reading = async {
        let mut reader = Reader::new(read);
        let mut answers = Vec::new();
        let closing = tokio::select! {
            closing = listen(stage, &mut reader, &progress, &mut answers) => closing,
            () = progress.reset.notified() => Closing::Any,
        };
        // Nobody shall wait for more.
        progress.answered.send_replace(usize::MAX);
        progress.continued.send_replace(usize::MAX);
        (answers, closing)
    };
    let (seen, _write) = tokio::join!(reading, say(stage, write, &progress));
    seen
}

async fn say(stage: &Stage, mut write: OwnedWriteHalf, progress: &Progress) -> io::Result<OwnedWriteHalf> {
    for (index, exchange) in stage.script.exchanges.iter().enumerate() {
        if !stage.script.at_once {
            until(&progress.answered, index).await;
        }
        write_chopped(&mut write, &request(stage, index), exchange.chop).await?;
        if exchange.expects {
            until(&progress.continued, index + 1).await;
        }
        wire::write_body(&mut write, &exchange.body, index).await?;
        if let Some((count, cut)) = exchange.body.cut {
            stage.until_server_has(index, exchange.body.up_to(count)).await;
            until(&progress.answered, index).await;
            break_off(&mut write, cut).await?;
            if cut != Cut::Fin {
                progress.reset.notify_one();
            }
            return Ok(write);
        }
    }
    match stage.script.end {
        End::HalfClose => write.shutdown().await?,
        End::GoesOn if goes_on(stage) => {
            until(&progress.answered, stage.script.exchanges.len()).await;
            let (name, value) = stage.name(stage.script.exchanges.len());
            let check = format!("GET /check HTTP/1.1\r\nhost: web.test\r\n{name}: {value}\r\n\r\n");
            write.write_all(check.as_bytes()).await?;
        }
        End::Close | End::GoesOn => {}
    }
    Ok(write)
}

async fn until(count: &watch::Sender<usize>, goal: usize) {
    let _ = count.subscribe().wait_for(|count| *count >= goal).await;
}

fn request(stage: &Stage, index: usize) -> Vec<u8> {
    let (script, exchange) = (&stage.script, &stage.script.exchanges[index]);
    let version = if exchange.old { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut more = vec![("host", "web.test".to_owned()), stage.name(index)];
    more.extend(announced(&exchange.body.trailers));
    if !exchange.answer.body.trailers.is_empty() && !exchange.fields.iter().any(|(name, _)| *name == "te") {
        more.push(("te", "trailers".to_owned()));
    }
    if exchange.expects {
        more.push(("expect", "100-continue".to_owned()));
    }
    if script.end == End::Close && index + 1 == script.exchanges.len() {
        more.push(("connection", "close".to_owned()));
    }
    wire::head(&format!("{} {} {version}", exchange.method, exchange.target), &exchange.fields, &more, &exchange.body)
}

/// Whether the client makes one more exchange at the end.
fn goes_on(stage: &Stage) -> bool {
    let cut = |exchange: &Exchange| exchange.body.cut.is_some() || exchange.answer.body.cut.is_some() || exchange.old;
    stage.script.end == End::GoesOn && !may_go_on(&stage.script) && !stage.script.exchanges.iter().any(cut)
}

async fn listen(
    stage: &Stage,
    reader: &mut Reader<OwnedReadHalf>,
    progress: &Progress,
    answers: &mut Vec<Answered>,
) -> Closing {
    for (index, exchange) in stage.script.exchanges.iter().enumerate() {
        let answered = answer(stage, index, exchange, reader, &progress.continued).await;
        if exchange.body.cut.is_some() {
            // The mesh may say what it thinks of half a request; that is no answer.
            answers.push(Answered::default());
            return Closing::Any;
        }
        let end = answered.body.end;
        answers.push(answered);
        if end != Ending::Whole || exchange.answer.body.cut.is_some() {
            return Closing::Any;
        }
        progress.answered.send_replace(index + 1);
    }
    if goes_on(stage) {
        return match reader.head().await {
            Ok(Some(head)) if head.line.starts_with("HTTP/1.1 200") => Closing::WentOn,
            _ => Closing::Wrong,
        };
    }
    if may_go_on(&stage.script) {
        return Closing::Any;
    }
    match reader.head().await {
        Ok(None) => Closing::Closed,
        _ => Closing::Wrong,
    }
}

async fn answer(
    stage: &Stage,
    index: usize,
    exchange: &Exchange,
    reader: &mut Reader<OwnedReadHalf>,
    continued: &watch::Sender<usize>,
) -> Answered {
    let mut answered = Answered::default();
    let cut = Content { end: Ending::Cut, ..Content::default() };
    loop {
        let head = match reader.head().await {
            Ok(Some(head)) => head,
            Ok(None) => return answered,
            Err(_) => return Answered { body: cut, ..answered },
        };
        let Ok(status) = head.status() else { return Answered { body: cut, ..answered } };
        let fields = stage.way.show(&stage.script, head.fields.clone());
        if status < 200 {
            if status == 100 {
                continued.send_replace(index + 1);
            }
            answered.interim.push((status, fields));
            continue;
        }
        (answered.status, answered.fields) = (status, fields);
        let may_have_one = exchange.method != "HEAD" && !matches!(status, 204 | 304);
        let mut incoming = head.body(true, may_have_one);
        let seen = |count| stage.client_has(index, count);
        seen(0);
        receive(&mut answered.body, &mut incoming, reader, usize::MAX, false, seen).await;
        return answered;
    }
}
