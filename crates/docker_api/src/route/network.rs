//! Networks: made, listed, joined, left, removed.

use crate::error::ApiError;
use crate::query::Filters;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::translate::list::fits;
use crate::translate::network as translate;
use crate::translate::time::now_ns;
use docker_wire::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
};
use engine::Leave;
use engine::model::Network;
use hyper::StatusCode;
use serde_json::json;

fn shows(call: &Call, filters: &Filters, dangling: Option<bool>, network: &Network) -> bool {
    let custom = !network.is_predefined();
    dangling.is_none_or(|dangling| dangling == (custom && call.engine().members(network).is_empty()))
        && filters.matches("driver", |wanted| translate::driver(network) == wanted)
        && filters.matches("id", |wanted| fits(wanted, network.id.as_str()))
        && filters.matches("name", |wanted| fits(wanted, &network.spec.name))
        && filters.matches("scope", |wanted| wanted == "local")
        && filters.matches("type", |wanted| wanted == if custom { "custom" } else { "builtin" })
        && filters.match_labels(|key| network.spec.labels.get(key).map(String::as_str))
}

/// `GET /networks`
pub(crate) async fn list(call: Call) -> Result {
    let filters = call.query.filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    for kind in filters.values("type").unwrap_or_default() {
        if !matches!(kind.as_str(), "builtin" | "custom") {
            return Err(ApiError::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let dangling = filters.flag("dangling")?;
    let all = call.engine().networks();
    let shown = all.iter().filter(|network| shows(&call, &filters, dangling, network));
    // before 1.28 a listing has what an inspect has
    let detailed = call.version < Version::minor(28);
    let members = |network: &Network| detailed.then(|| call.engine().members(network));
    reply::json(&shown.map(|network| translate::network(network, members(network).as_deref())).collect::<Vec<_>>())
}

/// `GET /networks/{id}`
pub(crate) async fn inspect(call: Call) -> Result {
    if let Some(scope) = call.query.text("scope").filter(|scope| *scope != "local") {
        return Err(ApiError::not_found(format!("network {} not found in scope {scope}", call.who())));
    }
    let network = call.engine().network(call.who())?;
    reply::json(&translate::network(&network, Some(&call.engine().members(&network))))
}

/// `POST /networks/create`
pub(crate) async fn create(mut call: Call) -> Result {
    let mut body: NetworkCreateRequest = call.json().await?;
    let driver = body.driver.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "bridge".to_owned());
    // one that is made from another's configuration has its options
    if body.config_from.as_ref().is_none_or(|from| from.network.as_deref().unwrap_or_default().is_empty())
        && let Some(defaults) = call.settings().network_options.get(&driver)
    {
        let options = body.options.get_or_insert_default();
        for (key, value) in defaults {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let network = call.engine().create_network(translate::spec(body)?).await?;
    let answer = NetworkCreateResponse { id: network.id.to_string(), warning: String::new() };
    reply::json_with(StatusCode::CREATED, &answer)
}

/// `DELETE /networks/{id}`
pub(crate) async fn remove(call: Call) -> Result {
    call.engine().remove_network(call.who()).await?;
    reply::done()
}

/// `POST /networks/{id}/connect`
pub(crate) async fn connect(mut call: Call) -> Result {
    let body: NetworkConnectRequest = call.json().await?;
    let request = translate::endpoint(body.endpoint_config.unwrap_or_default())?;
    call.engine().connect(call.who(), &body.container, request).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`
pub(crate) async fn disconnect(mut call: Call) -> Result {
    let body: NetworkDisconnectRequest = call.json().await?;
    let how = if body.force.unwrap_or(false) { Leave::Anyway } else { Leave::Present };
    call.engine().disconnect(call.who(), &body.container, how).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `POST /networks/prune`
pub(crate) async fn prune(call: Call) -> Result {
    let filters = call.query.filters(&["label", "label!", "until"])?;
    let until = filters.until(now_ns())?;
    let mut deleted = Vec::new();
    for network in call.engine().networks() {
        let labels = &network.spec.labels;
        let chosen = !network.is_predefined()
            && until.is_none_or(|until| network.created_ns <= until)
            && filters.match_labels(|key| labels.get(key).map(String::as_str));
        if chosen && call.engine().remove_network(network.id.as_str()).await.is_ok() {
            deleted.push(network.spec.name.clone());
        }
    }
    reply::json(&json!({ "NetworksDeleted": reply::removed(deleted) }))
}
