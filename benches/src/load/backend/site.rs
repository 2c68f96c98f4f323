//! `GET /b/N`: N bytes. `POST /sink`: the body is read, 100 bytes come back.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::Service;

use crate::load::message;

/// The largest N.
const LARGEST: usize = 4 << 20;
const SMALL: usize = 100;

/// One buffer for all answers.
#[derive(Clone)]
pub(super) struct Site(Bytes);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, hyper::Error>> + Send>>;

impl Default for Site {
    fn default() -> Self {
        Self(message::text(LARGEST).into())
    }
}

impl Service<Request<Incoming>> for Site {
    type Response = Response<Full<Bytes>>;
    type Error = hyper::Error;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let site = self.clone();
        Box::pin(async move {
            let (method, path) = (request.method(), request.uri().path());
            let answer = match path.strip_prefix("/b/").map(str::parse::<usize>) {
                Some(Ok(length)) if method == Method::GET && length <= LARGEST => site.bytes(length),
                None if method == Method::POST && path == "/sink" => {
                    consume(request.into_body()).await?;
                    site.bytes(SMALL)
                }
                _ => not_found(),
            };
            Ok(answer)
        })
    }
}

impl Site {
    fn bytes(&self, length: usize) -> Response<Full<Bytes>> {
        Response::new(Full::new(self.0.slice(..length)))
    }
}

fn not_found() -> Response<Full<Bytes>> {
    let text = format!("GET /b/N answers N bytes, {LARGEST} at most; POST /sink reads its body; there is no more\n");
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

async fn consume(mut body: Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        drop(frame?);
    }
    Ok(())
}
