//! Who may call: whoever has shown a token, and a client certificate where one is asked for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use super::ApiError;
use crate::server::{Caller, MutualTls};

/// The tokens of one kind of caller: one, or two while they are changed. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<[String]>);

impl Tokens {
    /// Of these.
    #[must_use]
    pub fn new(tokens: Vec<String>) -> Self {
        Self(tokens.into())
    }

    /// Whether one of them was given. Takes the same time for every guess of a length, whichever token
    /// it is near to, so that none can be guessed byte by byte.
    fn include(&self, given: &[u8]) -> bool {
        let none = Choice::from(0);
        self.0.iter().fold(none, |found, token| found | given.ct_eq(token.as_bytes())).into()
    }
}

/// Lets only those with a token in.
pub async fn require_token(State(tokens): State<Tokens>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    if caller.is_some_and(|caller| caller.mutual == MutualTls::Missing) {
        return ApiError::forbidden("expected a client certificate").into_response();
    }
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if !given.is_some_and(|given| tokens.include(given)) {
        return ApiError::unauthorized().into_response();
    }
    if let Some(caller) = caller {
        caller.vouch();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_token_is_taken_and_nothing_else() {
        let tokens = Tokens::new(vec!["the-old-token-of-it".to_owned(), "the-new-token".to_owned()]);
        for (given, expected) in [
            ("the-old-token-of-it", true),
            ("the-new-token", true),
            ("the-new-tokem", false),
            ("the-old-token-of-it,the-new-token", false),
            ("the-old", false),
            ("", false),
        ] {
            assert_eq!(tokens.include(given.as_bytes()), expected, "{given}");
        }
    }
}
