//! `/tidegate/v1/images`: what `tidegate image` asks of the mesh that runs, and tells it.

use apiserver::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use linux::error::with_causes;
use local::kubelet::Kubelet;

/// Where it is asked.
pub(crate) const PATH: &str = "/tidegate/v1/images";

/// `GET` lists images; `POST` says that there may be new ones, for which pods wait.
pub(super) async fn answer(kubelet: &Kubelet, request: &Request<Bytes>) -> Response<Body> {
    if request.method() == Method::POST {
        kubelet.tell_of_images();
        return whole(StatusCode::OK, "{}".to_owned());
    }
    let store = kubelet.images().clone();
    let listed = tokio::task::spawn_blocking(move || store.list()).await;
    match listed {
        Ok(Ok(images)) => whole(StatusCode::OK, crate::image::document(&images).to_string()),
        Ok(Err(error)) => whole(StatusCode::INTERNAL_SERVER_ERROR, with_causes(&error)),
        Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn whole(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = code;
    response
}
