//! Both ends of a conversation in HTTP/2, each exchange on a stream of its own.
//!
//! Invariant: each end does what the script says, whatever the other does, and writes down what it sees.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use crate::script::{self, Body, Cut, Exchange, Framing};
use crate::seen::{Answered, Asked, Closing, Content, Ending, Fields, Shown};
use crate::stage::{Current, Stage};
use crate::wire::latin;

type Done<T = ()> = Result<T, h2::Error>;

/// Serves one connection.
pub(crate) async fn serve(current: &Arc<Current>, stream: TcpStream) -> Done {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let Some((stage, index)) = current.find(&fields(request.headers())) else { continue };
        tokio::spawn(async move { answer(&stage, index, request, respond).await });
    }
    Ok(())
}

async fn answer(stage: &Stage, index: usize, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Done {
    let Some(script) = stage.script.exchanges.get(index) else { return Ok(()) };
    let (head, mut incoming) = request.into_parts();
    stage.server_has(index, 0);
    let mut asked = Asked {
        line: format!("{} {} {:?}", head.method, head.uri, head.version),
        fields: stage.way.show(&stage.script, fields(&head.headers)),
        ..Asked::default()
    };
    let said = exchange(stage, index, script, &mut asked.body, &mut incoming, &mut respond).await;
    // What could not be said matters to the client; what was asked is written down in any case.
    receive(&mut asked.body, &mut incoming, usize::MAX, |count| stage.server_has(index, count)).await;
    stage.record(index, asked);
    said
}

async fn exchange(
    stage: &Stage,
    index: usize,
    script: &Exchange,
    body: &mut Content,
    incoming: &mut RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Done {
    let answer = &script.answer;
    for (status, fields) in &answer.interim {
        let mut interim = Response::new(());
        *interim.status_mut() = code(*status);
        *interim.headers_mut() = map(fields);
        respond.send_informational(interim)?;
    }
    let goal = if answer.after == usize::MAX { usize::MAX } else { script.body.up_to(answer.after) };
    receive(body, incoming, goal, |count| stage.server_has(index, count)).await;
    if matches!(body.end, Ending::Reset(_) | Ending::Cut) {
        return Ok(());
    }
    let mut response = Response::new(());
    *response.status_mut() = code(answer.status);
    *response.headers_mut() = map(&answer.fields);
    frame(response.headers_mut(), &answer.body);
    let empty = answer.body.framing == Framing::Absent || script.method == "HEAD" || answer.status == 304;
    let mut stream = respond.send_response(response, empty)?;
    if empty {
        return Ok(());
    }
    send_body(&mut stream, &answer.body, index + 100).await?;
    if let Some((count, cut)) = answer.body.cut {
        stage.until_client_has(index, answer.body.up_to(count)).await;
        stream.send_reset(reset(cut));
    }
    Ok(())
}

/// The client's end.
pub(crate) async fn talk(stage: &Arc<Stage>, stream: TcpStream) -> Done<(Vec<Answered>, Closing)> {
    let (sender, connection) = h2::client::handshake(stream).await?;
    let driving = tokio::spawn(connection);
    let exchanges = (0..stage.script.exchanges.len()).map(|index| {
        let (stage, sender) = (Arc::clone(stage), sender.clone());
        async move { ask(&stage, index, sender).await.unwrap_or_else(|error| failed(&error)) }
    });
    let mut answers = Vec::new();
    if stage.script.at_once {
        answers = futures_util::future::join_all(exchanges).await;
    } else {
        for exchange in exchanges {
            answers.push(exchange.await);
        }
    }
    // Whatever became of its streams, the connection has not suffered.
    let closing = if sender.ready().await.is_ok() { Closing::WentOn } else { Closing::Wrong };
    // What the streams' ends have still to say must be said.
    stage.until_recorded(stage.script.exchanges.len()).await;
    driving.abort();
    Ok((answers, closing))
}

fn failed(error: &h2::Error) -> Answered {
    Answered { body: Content { end: ending(error), ..Content::default() }, ..Answered::default() }
}

async fn ask(stage: &Stage, index: usize, sender: SendRequest<Bytes>) -> Done<Answered> {
    let exchange = &stage.script.exchanges[index];
    let mut request = Request::new(());
    *request.method_mut() = exchange.method.parse().expect("a method");
    *request.uri_mut() = format!("http://web.test{}", exchange.target).parse().expect("a target");
    *request.headers_mut() = map(&exchange.fields);
    let (name, value) = stage.name(index);
    request.headers_mut().insert(name, value.parse().expect("a name of ours"));
    frame(request.headers_mut(), &exchange.body);
    let empty = exchange.body.framing == Framing::Absent;
    let (mut response, mut stream) = sender.ready().await?.send_request(request, empty)?;
    let saying = async {
        if empty {
            return Ok(false);
        }
        send_body(&mut stream, &exchange.body, index).await?;
        let Some((count, cut)) = exchange.body.cut else { return Ok(false) };
        stage.until_server_has(index, exchange.body.up_to(count)).await;
        stream.send_reset(reset(cut));
        Ok::<_, h2::Error>(true)
    };
    let mut answered = Answered::default();
    let (said, heard) = tokio::join!(saying, hear(stage, index, &mut response, &mut answered));
    match (said, heard) {
        (Ok(true), _) => Ok(Answered::default()),
        (Ok(false), Ok(())) => Ok(answered),
        // Both fail when the stream is reset; what was heard says more.
        (_, Err(error)) | (Err(error), Ok(())) => {
            answered.body.end = ending(&error);
            Ok(answered)
        }
    }
}

async fn hear(stage: &Stage, index: usize, response: &mut ResponseFuture, answered: &mut Answered) -> Done {
    let show = |headers: &HeaderMap| stage.way.show(&stage.script, fields(headers));
    let head = poll_fn(|cx| {
        while let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim?;
            answered.interim.push((interim.status().as_u16(), show(interim.headers())));
        }
        std::pin::Pin::new(&mut *response).poll(cx)
    });
    let (head, mut incoming) = head.await?.into_parts();
    stage.client_has(index, 0);
    (answered.status, answered.fields) = (head.status.as_u16(), show(&head.headers));
    receive(&mut answered.body, &mut incoming, usize::MAX, |count| stage.client_has(index, count)).await;
    Ok(())
}

/// Reads a body up to `goal` bytes, or to its end.
async fn receive(content: &mut Content, incoming: &mut RecvStream, goal: usize, seen: impl Fn(usize)) {
    while content.end == Ending::None && (goal == usize::MAX || content.bytes.len() < goal) {
        match incoming.data().await {
            Some(Ok(bytes)) => {
                let _ = incoming.flow_control().release_capacity(bytes.len());
                content.bytes.extend_from_slice(&bytes);
                seen(content.bytes.len());
            }
            Some(Err(error)) => content.end = ending(&error),
            None => match incoming.trailers().await {
                Ok(trailers) => {
                    content.trailers = Shown(trailers.map(|map| fields(&map)).unwrap_or_default());
                    content.end = Ending::Whole;
                }
                Err(error) => content.end = ending(&error),
            },
        }
    }
}

async fn send_body(stream: &mut SendStream<Bytes>, body: &Body, salt: usize) -> Done {
    for piece in body.sent(salt) {
        let mut piece = Bytes::from(piece);
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
            let room = room.ok_or(Reason::CANCEL)??;
            stream.send_data(piece.split_to(room.min(piece.len())), false)?;
        }
    }
    match (body.cut, body.trailers.is_empty()) {
        (Some(_), _) => Ok(()),
        (None, true) => stream.send_data(Bytes::new(), true),
        (None, false) => stream.send_trailers(map(&body.trailers)),
    }
}

fn frame(headers: &mut HeaderMap, body: &Body) {
    if body.framing == Framing::Length {
        headers.insert(http::header::CONTENT_LENGTH, body.length().into());
    }
}

fn map(fields: &script::Fields) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(&latin(value)).expect("a value of the script"))
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(pair) {
        map.append(name, value);
    }
    map
}

fn fields(map: &HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

fn code(status: u16) -> http::StatusCode {
    http::StatusCode::from_u16(status).expect("a status of the script")
}

fn reset(cut: Cut) -> Reason {
    match cut {
        Cut::Fin => Reason::CANCEL,
        Cut::Reset(code) => code.into(),
    }
}

fn ending(error: &h2::Error) -> Ending {
    match error.reason() {
        Some(reason) if error.is_reset() => Ending::Reset(reason.into()),
        _ => Ending::Cut,
    }
}
