//! The document of the API, OpenAPI 3.1, made from the handlers; and its page, whose files come with the
//! program, so that it works where there is no internet. Neither tells more than the source does: no token
//! is asked for.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Content, InfoBuilder, OpenApi as Document, OpenApiBuilder, PathItem, Ref, RefOr, Required, Response,
    ResponseBuilder, SecurityRequirement, Tag,
};
use utoipa::{OpenApi as _, PartialSchema, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::AppState;
use super::error::{PROBLEM_JSON, Problem};
use super::fault::Fault;

/// Where the document is.
pub const DOCUMENT_PATH: &str = "/v1/openapi.json";

/// Where its page is.
const PAGE_PATH: &str = "/v1/docs";

/// The operators' way in.
const OPERATOR: &str = "operator";

/// The filters' way in.
const FILTER: &str = "filter";

/// Answers that any operation may give.
const EVERYWHERE: [(&str, &str); 10] = [
    ("400", "The query or the body can't be read."),
    ("401", "No token, or none that is known."),
    ("403", "The token's role is not enough, or a client certificate is missing."),
    ("404", "There is no such thing within reach of the token."),
    ("408", "The body did not come in time."),
    ("413", "The body is larger than is read."),
    ("422", "Understood, but can't be right; `errors` says where."),
    ("429", "Too many wrong tokens from this address."),
    ("500", "A mistake in the backend."),
    ("503", "Not now: the database is away, or too much is running. Nothing was written."),
];

/// A tier.
#[derive(ToSchema)]
#[schema(as = Tier)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "for the document alone")]
pub enum TierName {
    /// The organisation.
    Org,
    /// A team of it.
    Team,
    /// A user of the team.
    User,
}

/// A calendar window.
#[derive(ToSchema)]
#[schema(as = Window)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "for the document alone")]
pub enum WindowName {
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
    /// For good.
    Total,
}

/// Who pays.
#[derive(ToSchema)]
#[schema(as = Payer)]
#[allow(dead_code, reason = "for the document alone")]
pub struct PayerView {
    org: String,
    team: Option<String>,
    user: Option<String>,
}

/// The facts of a call: those of a hold that bear on its price and budgets.
#[derive(ToSchema)]
#[schema(as = Call)]
#[allow(dead_code, reason = "for the document alone")]
pub struct CallView {
    /// The API spoken, as the ledger names it.
    #[schema(example = "openai_chat")]
    api: String,
    /// Who bills.
    #[schema(example = "openai")]
    provider: String,
    /// The model asked for.
    #[schema(example = "gpt-4o-mini")]
    model: String,
}

/// A call to explain. What else a hold carries is taken as well, and makes no difference.
#[derive(ToSchema)]
#[schema(as = Question)]
#[allow(dead_code, reason = "for the document alone")]
pub struct QuestionBody {
    /// Who pays; or `lookup`.
    #[schema(required = false)]
    payer: PayerView,
    /// What may name the payer.
    #[schema(value_type = Option<Object>)]
    lookup: Option<()>,
    call: CallView,
    /// The service tier asked for.
    service_tier: Option<String>,
    /// What bounds its cost.
    #[schema(value_type = Object, required = false)]
    size: (),
}

/// Holds money for a call. Whether it may go out is the verdict, in an answer of 200; any other status means
/// that none was reached.
#[utoipa::path(post, path = "/v1/holds", tag = "filter", request_body = Object,
    responses((status = 200, description = "The verdict.", body = Object)))]
#[allow(dead_code, reason = "for the document alone")]
fn holds() {}

/// Records what calls cost. Answers after the commit, for each item.
#[utoipa::path(post, path = "/v1/settlements", tag = "filter", request_body = Object,
    responses((status = 200, description = "What became of each.", body = Object)))]
#[allow(dead_code, reason = "for the document alone")]
fn settlements() {}

/// The filters' routes, of which the wire is pinned elsewhere.
#[derive(utoipa::OpenApi)]
#[openapi(paths(holds, settlements))]
struct FilterRoutes;

/// What the document begins as.
pub fn base() -> Document {
    let info = InfoBuilder::new()
        .title("Purser")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Money budgets for LLM traffic. Amounts are decimal strings in USD; times are RFC 3339. Unknown fields \
             are refused. Errors are problem details (RFC 9457).",
        ))
        .build();
    let tag = |name: &str, description: &str| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    };
    let tags = [
        tag("budgets", "Who may spend how much."),
        tag("rules", "Kill switches, models, required budgets, overrides."),
        tag("usage", "Who spent what."),
        tag("requests", "Calls, one by one."),
        tag("alerts", "What operators are told, and where."),
        tag("callers", "Who pays for whom."),
        tag("looking closer", "Why something is as it is."),
        tag("tokens", "Who may use this API."),
        tag("filter", "What Envoy's filter uses; not for operators."),
    ];
    OpenApiBuilder::new().info(info).tags(Some(tags)).paths(FilterRoutes::openapi().paths).build()
}

/// Adds to each operation what holds for all.
pub fn complete(mut document: Document) -> Document {
    for (path, item) in &mut document.paths.paths {
        let is_filters =
            [purser_protocol::HOLDS_PATH, purser_protocol::SETTLEMENTS_PATH].contains(&path.as_str());
        for (method, operation) in operations(item) {
            complete_one(operation, method, is_filters);
        }
    }
    let bearer = |description: &str| {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        SecurityScheme::Http(scheme)
    };
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(OPERATOR, bearer("A token of role admin, editor or viewer."));
    components.add_security_scheme(FILTER, bearer("A token of role data_plane."));
    for (name, schema) in [(Problem::name(), Problem::schema()), (Fault::name(), Fault::schema())] {
        components.schemas.insert(name.into_owned(), schema);
    }
    document
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    let methods = [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("PATCH", &mut item.patch),
        ("DELETE", &mut item.delete),
    ];
    methods.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?))).collect()
}

fn complete_one(operation: &mut Operation, method: &str, is_filters: bool) {
    let mut answers = EVERYWHERE.to_vec();
    if operation.request_body.is_some() {
        answers.push(("415", "The body is of a kind that is not read."));
    }
    if method == "POST" {
        answers.push(("409", "It exists already, or a request with this Idempotency-Key is running."));
    }
    for (status, description) in answers {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
    }
    if !is_filters && method == "POST" {
        header_parameter(
            operation,
            "Idempotency-Key",
            "A create that is sent again under its key is answered again, not done again; for a day.",
        );
    }
    if !is_filters && method != "GET" {
        header_parameter(operation, "X-Purser-Actor", "In whose name the edit is made, for the audit log.");
    }
    let scheme = if is_filters { FILTER } else { OPERATOR };
    operation.security = Some(vec![SecurityRequirement::new(scheme, Vec::<String>::new())]);
}

fn problem(description: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name(Problem::name())));
    ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build()
}

fn header_parameter(operation: &mut Operation, name: &str, description: &str) {
    let text =
        ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255)).build();
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(text))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}

/// Serves the document and its page.
pub fn routes(document: &Document) -> Router<AppState> {
    let text: Arc<str> = document.to_json().unwrap_or_default().into();
    let served = get(move || async move {
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], text.to_string()).into_response()
    });
    let page = SwaggerUi::new(PAGE_PATH).config(Config::from(DOCUMENT_PATH));
    Router::from(page).route(DOCUMENT_PATH, served)
}
