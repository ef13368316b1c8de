//! From a path to what it is for.
//!
//! Routes are matched as the gateway matches them: by the exact path. `http` has already refused
//! every path that a URL parser would turn into another one.

use hyper::{Method, Request};

use super::http::Checked;
use super::ui;
use crate::config::Listen;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// `POST /tools/invoke`.
    ToolsInvoke,
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /hooks/…`.
    Hooks,
    /// Reading from the API: `GET /v1/models` and its kin.
    ApiRead,
    /// A model without tools: `POST /v1/embeddings`.
    ApiWrite,
    /// Whatever else changes things, or that clawsec does not know: for `operator.admin`.
    Manage,
    /// A page or an asset of the Control UI or the canvas.
    Page,
    /// clawsec's own sign-in page, and what belongs to it.
    SignIn,
    /// A listener's `bypass` path: the gateway behind knows the sender by its own signature.
    Webhook,
    /// Any path, with `Upgrade: websocket`.
    WebSocket,
}

impl Route {
    /// Pages are many per view and cost little: they do not count against the request limit. The
    /// sign-in page counts for itself, to say so in its own form.
    pub(super) fn is_counted(self) -> bool {
        !matches!(self, Self::Page | Self::SignIn)
    }
}

/// A well-formed request and what it is for.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) request: Request<super::received::Received>,
    pub(super) route: Route,
}

pub(super) fn classify(checked: Checked, listen: Option<&Listen>) -> Routed {
    let Checked { request, upgrade } = checked;
    let bypass = listen.is_some_and(|listen| {
        *request.method() == Method::POST
            && listen
                .bypass
                .iter()
                .any(|path| path == request.uri().path())
    });
    let route = if upgrade {
        Route::WebSocket
    } else if bypass {
        Route::Webhook
    } else {
        of(request.method(), request.uri().path())
    };
    Routed { request, route }
}

fn of(method: &Method, path: &str) -> Route {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/tools/invoke" => Route::ToolsInvoke,
        _ if reads && ui::is_placed(path) => Route::Page,
        _ if path.starts_with("/__clawsec/") => Route::SignIn,
        "/v1/chat/completions" => Route::ChatCompletions,
        "/v1/responses" => Route::Responses,
        "/v1/embeddings" => Route::ApiWrite,
        _ if path == "/hooks" || path.starts_with("/hooks/") => Route::Hooks,
        _ if path.starts_with("/v1/") && reads => Route::ApiRead,
        _ if path.starts_with("/api/") || path.starts_with("/plugins/") => Route::Manage,
        _ if reads => Route::Page,
        _ => Route::Manage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_meaning() {
        let rows = [
            (Method::POST, "/tools/invoke", Route::ToolsInvoke),
            (Method::GET, "/tools/invoke", Route::ToolsInvoke),
            (Method::POST, "/tools/invoke/", Route::Manage),
            (Method::POST, "/Tools/invoke", Route::Manage),
            (Method::POST, "/v1/chat/completions", Route::ChatCompletions),
            (Method::POST, "/v1/responses", Route::Responses),
            (Method::GET, "/v1/models", Route::ApiRead),
            (Method::POST, "/v1/other", Route::Manage),
            (Method::POST, "/hooks/agent", Route::Hooks),
            (Method::POST, "/hooksagent", Route::Manage),
            (Method::GET, "/api/channels/x", Route::Manage),
            (Method::GET, "/assets/app.js", Route::Page),
            (Method::POST, "/", Route::Manage),
            (Method::POST, "/__clawsec/sign-in", Route::SignIn),
            (Method::GET, "/__clawsec/else", Route::SignIn),
            (Method::GET, "/__clawsec/canvas/x/y", Route::Page),
            (Method::POST, "/__clawsec/canvas/x/y", Route::SignIn),
            (Method::GET, "/__clawsec", Route::Page),
        ];
        for (method, path, expected) in rows {
            assert_eq!(of(&method, path), expected, "{method} {path}");
        }
    }
}
