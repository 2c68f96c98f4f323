//! The cases by a tonic client, and what `python/interop_client.py` does for grpcio.
//!
//! Invariant: after each case that gives a call up, nothing of it is left at the server.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::proto::cases_client::CasesClient;
use super::proto::{Answer, Ask, Failure, Load, Nothing};
use crate::client::PATIENCE;

/// All cases.
pub(super) const NAMES: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "orca_oob",
];

/// What came of a case: why it failed.
pub(super) type Outcome = Result<(), String>;

type Client = CasesClient<Channel>;
type Held = anyhow::Result<()>;

const UP: usize = 271_828;
const DOWN: u32 = 314_159;
const SENT: [usize; 4] = [27_182, 8, 1_828, 45_904];
const WANTED: [u32; 4] = [31_415, 9, 2_653, 58_979];

/// All cases, one after the other over one channel.
pub(super) async fn run(addr: SocketAddr) -> [Outcome; NAMES.len()] {
    let channel = match connect(addr).await {
        Ok(channel) => channel,
        Err(error) => return NAMES.map(|_| Err(format!("connect: {error:#}"))),
    };
    let mut outcomes = NAMES.map(|_| Ok(()));
    for (name, outcome) in NAMES.iter().zip(&mut outcomes) {
        let held = tokio::time::timeout(2 * PATIENCE, case(name, channel.clone())).await;
        *outcome = held.map_or_else(|_| Err("no end".to_owned()), |held| held.map_err(|error| format!("{error:#}")));
    }
    outcomes
}

/// At least `calls` calls of the large kind, and until `time` is over; how many.
///
/// # Errors
/// When a call fails.
pub fn soak(addr: SocketAddr, channel_each: bool, calls: u64, time: Duration) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (end, mut made) = (Instant::now() + time, 0);
        let mut channel = connect(addr).await?;
        while made < calls || Instant::now() < end {
            if channel_each {
                channel = connect(addr).await?;
            }
            made += 1;
            large_unary(Client::new(channel.clone())).await.with_context(|| format!("call {made}"))?;
        }
        Ok(made)
    })
}

async fn connect(addr: SocketAddr) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?.timeout(2 * PATIENCE).connect().await?)
}

fn case(name: &str, channel: Channel) -> Pin<Box<dyn Future<Output = Held> + Send>> {
    let client = Client::new(channel.clone());
    match name {
        "empty_unary" => Box::pin(empty_unary(client)),
        "large_unary" => Box::pin(large_unary(client)),
        "client_streaming" => Box::pin(client_streaming(client)),
        "server_streaming" => Box::pin(server_streaming(client)),
        "ping_pong" => Box::pin(ping_pong(client)),
        "empty_stream" => Box::pin(empty_stream(client)),
        "timeout_on_sleeping_server" => Box::pin(timeout_on_sleeping_server(client)),
        "cancel_after_begin" => Box::pin(cancel_after_begin(client)),
        "cancel_after_first_response" => Box::pin(cancel_after_first_response(client)),
        "status_code_and_message" => Box::pin(ends_with(client, "test status message")),
        "special_status_message" => {
            let message = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
            Box::pin(ends_with(client, message))
        }
        "custom_metadata" => Box::pin(custom_metadata(client)),
        "unimplemented_method" => Box::pin(unimplemented(channel, "/mesh.interop.v1.Cases/Missing")),
        "unimplemented_service" => Box::pin(unimplemented(channel, "/mesh.interop.v1.Missing/Empty")),
        "orca_per_rpc" => Box::pin(orca_per_rpc(client)),
        "orca_oob" => Box::pin(orca_oob(client)),
        _ => Box::pin(std::future::ready(Err(anyhow::anyhow!("no such case")))),
    }
}

fn ask(payload: usize, sizes: &[u32]) -> Ask {
    Ask { payload: vec![0; payload].into(), sizes: sizes.to_vec(), ..Ask::default() }
}

/// A stream of messages, one at a time.
fn feed() -> (mpsc::Sender<Ask>, ReceiverStream<Ask>) {
    let (sender, receiver) = mpsc::channel(8);
    (sender, ReceiverStream::new(receiver))
}

async fn next<T>(answers: &mut Streaming<T>) -> anyhow::Result<T> {
    let next = tokio::time::timeout(PATIENCE, answers.message()).await.context("no answer in time")?;
    next?.context("the stream ended")
}

/// What a client gave up ends at the server as well.
async fn until_no_call_is_open(client: &mut Client) -> Held {
    let end = Instant::now() + PATIENCE;
    loop {
        let census = client.calls(Nothing {}).await?.into_inner();
        if census.open == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "still open at the server: {census:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn empty_unary(mut client: Client) -> Held {
    client.empty(Nothing {}).await?;
    Ok(())
}

async fn large_unary(mut client: Client) -> Held {
    let answer = client.unary(ask(UP, &[DOWN])).await?.into_inner();
    ensure!(answer.payload.len() == DOWN as usize && answer.received == UP as u64, "{} bytes", answer.payload.len());
    ensure!(answer.payload.iter().all(|&byte| byte == 0), "other bytes came back");
    Ok(())
}

async fn client_streaming(mut client: Client) -> Held {
    let answer = client.collect(tokio_stream::iter(SENT.map(|size| ask(size, &[])))).await?.into_inner();
    ensure!(answer.received == 74_922, "{} of 74922 bytes", answer.received);
    Ok(())
}

async fn server_streaming(mut client: Client) -> Held {
    let answers = client.split(ask(0, &WANTED)).await?.into_inner();
    let answers: Result<Vec<Answer>, Status> = answers.collect().await;
    let sizes: Vec<_> = answers?.iter().map(|answer| answer.payload.len()).collect();
    ensure!(sizes == WANTED.map(|size| size as usize), "{sizes:?}");
    Ok(())
}

async fn ping_pong(mut client: Client) -> Held {
    let (sender, asks) = feed();
    sender.send(ask(SENT[0], &[WANTED[0]])).await?;
    let mut answers = client.duplex(asks).await?.into_inner();
    for (index, wanted) in WANTED.into_iter().enumerate() {
        let answer = next(&mut answers).await?;
        ensure!(answer.payload.len() == wanted as usize, "{} of {wanted}", answer.payload.len());
        if let (Some(&size), Some(&wanted)) = (SENT.get(index + 1), WANTED.get(index + 1)) {
            sender.send(ask(size, &[wanted])).await?;
        }
    }
    drop(sender);
    ensure!(answers.message().await?.is_none(), "an answer too many");
    Ok(())
}

async fn empty_stream(mut client: Client) -> Held {
    let mut answers = client.duplex(tokio_stream::empty()).await?.into_inner();
    ensure!(answers.message().await?.is_none(), "an answer too many");
    Ok(())
}

/// A server that is asked for nothing may keep its head back, or give it and be silent: in either case time ends it.
async fn timeout_on_sleeping_server(mut client: Client) -> Held {
    // The first may be over before it is sent; the second is not.
    for timeout in [Duration::from_millis(1), Duration::from_millis(300)] {
        let (sender, asks) = feed();
        sender.send(ask(27_182, &[])).await?;
        let mut request = Request::new(asks);
        request.set_timeout(timeout);
        let start = Instant::now();
        let silent = async { client.duplex(request).await?.into_inner().message().await };
        let status = match tokio::time::timeout(timeout + PATIENCE, silent).await.context("no end of a call in time")? {
            Err(status) => status,
            Ok(answer) => anyhow::bail!("{answer:?} from a server that sleeps"),
        };
        // tonic's own timer says "cancelled".
        ensure!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
        // The server has a clock of its own, in coarser steps.
        let early = start.elapsed() + Duration::from_millis(10) < timeout;
        ensure!(!early, "{status:?} after {:?} of {timeout:?}", start.elapsed());
    }
    until_no_call_is_open(&mut client).await
}

async fn cancel_after_begin(mut client: Client) -> Held {
    let (sender, asks) = feed();
    let mut other = client.clone();
    let call = other.collect(asks);
    // A message that the connection has taken is the sign that the call has begun.
    let begun = async {
        sender.send(ask(0, &[])).await.ok();
        while sender.capacity() < sender.max_capacity() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = call => anyhow::bail!("{answer:?} before the end of the stream"),
        () = begun => {}
    }
    until_no_call_is_open(&mut client).await
}

/// tonic resets a stream whose answers nobody wants only once its own side has ended, so to the server this may be a call
/// that was ended as well as one that was given up.
async fn cancel_after_first_response(mut client: Client) -> Held {
    let (sender, asks) = feed();
    sender.send(ask(27_182, &[31_415])).await?;
    let mut answers = client.duplex(asks).await?.into_inner();
    let first = next(&mut answers).await?;
    ensure!(first.payload.len() == 31_415, "{} of 31415 bytes", first.payload.len());
    drop((answers, sender));
    until_no_call_is_open(&mut client).await
}

async fn ends_with(mut client: Client, message: &str) -> Held {
    let failing = Ask { failure: Some(Failure { code: 2, message: message.to_owned() }), ..Ask::default() };
    let unary = client.unary(failing.clone()).await.err();
    let streamed = match client.duplex(tokio_stream::iter([failing])).await {
        Ok(answers) => answers.into_inner().message().await.err(),
        Err(status) => Some(status),
    };
    for status in [unary, streamed] {
        let as_asked = |status: &Status| status.code() == Code::Unknown && status.message() == message;
        ensure!(status.as_ref().is_some_and(as_asked), "{status:?}");
    }
    Ok(())
}

async fn custom_metadata(mut client: Client) -> Held {
    fn with_metadata<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-case-initial", MetadataValue::from_static("test_initial_metadata_value"));
        request.metadata_mut().insert_bin("x-case-trailing-bin", MetadataValue::from_bytes(&[0xab; 3]));
        request
    }
    let message = ask(UP, &[DOWN]);
    // A unary answer has both in one map.
    let unary = client.unary(with_metadata(message.clone())).await?;
    let streamed = client.duplex(with_metadata(tokio_stream::iter([message]))).await?;
    let initial = [unary.metadata(), streamed.metadata()].map(|map| map.get("x-case-initial").cloned());
    let wanted = MetadataValue::from_static("test_initial_metadata_value");
    ensure!(initial.iter().all(|value| value.as_ref() == Some(&wanted)), "{initial:?}");
    let mut answers = streamed.into_inner();
    ensure!(next(&mut answers).await?.payload.len() == DOWN as usize, "another answer");
    ensure!(answers.message().await?.is_none(), "an answer too many");
    let trailers = answers.trailers().await?.context("no trailers")?;
    for map in [unary.metadata(), &trailers] {
        let value = map.get_bin("x-case-trailing-bin").and_then(|value| value.to_bytes().ok());
        ensure!(value.as_deref() == Some(&[0xab; 3][..]), "{map:?}");
    }
    Ok(())
}

async fn unimplemented(channel: Channel, path: &'static str) -> Held {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let (codec, path) = (tonic_prost::ProstCodec::<Nothing, Nothing>::default(), PathAndQuery::from_static(path));
    let status = client.unary(Request::new(Nothing {}), path, codec).await.err();
    ensure!(status.as_ref().is_some_and(|status| status.code() == Code::Unimplemented), "{status:?}");
    Ok(())
}

async fn orca_per_rpc(mut client: Client) -> Held {
    let mut load = Load { cpu: 0.8210, memory: 0.5847, ..Load::default() };
    load.request_cost.insert("cost".to_owned(), 3456.32);
    load.utilization.insert("util".to_owned(), 0.30499);
    let answer = client.unary(Ask { per_call: Some(load.clone()), ..Ask::default() }).await?;
    for name in ["endpoint-load-metrics-bin", "x-case-load-bin"] {
        let report = answer.metadata().get_bin(name).and_then(|value| value.to_bytes().ok());
        let report: Bytes = report.with_context(|| format!("no {name} in {:?}", answer.metadata()))?;
        ensure!(Load::decode(report)? == load, "another {name}");
    }
    Ok(())
}

async fn orca_oob(mut client: Client) -> Held {
    let mut reports = client.watch(Nothing {}).await?.into_inner();
    let (sender, asks) = feed();
    let mut asks = Some(asks);
    let mut answers = None;
    for (cpu, memory, util) in [(0.8210, 0.5847, 0.30499), (0.29309, 0.2, 0.2039)] {
        let mut load = Load { cpu, memory, ..Load::default() };
        load.utilization.insert("util".to_owned(), util);
        sender.send(Ask { out_of_band: Some(load.clone()), ..ask(0, &[1]) }).await?;
        if let Some(asks) = asks.take() {
            answers = Some(client.duplex(asks).await?.into_inner());
        }
        next(answers.as_mut().context("a call")?).await?;
        while next(&mut reports).await? != load {}
    }
    drop(sender);
    let last = answers.context("a call")?.message().await?;
    ensure!(last.is_none(), "an answer too many");
    drop(reports);
    until_no_call_is_open(&mut client).await
}
