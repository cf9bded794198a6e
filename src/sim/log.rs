//! What nodes log, as lines of the trace.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use super::trace::Trace;

/// A layer that writes events to a trace, under the name of the node whose task made them.
pub struct TraceLog {
    trace: Trace,
}

/// The name in a node's span.
struct NodeName(String);

impl TraceLog {
    /// Takes what is logged on this thread from now on, until the guard is dropped.
    pub fn install(trace: &Trace) -> DefaultGuard {
        let layer = Self { trace: trace.clone() };
        tracing::subscriber::set_default(Registry::default().with(layer))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLog {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), Some(name)) = (context.span(id), fields.name) {
            span.extensions_mut().insert(NodeName(name));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() > Level::INFO {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let scope = context.event_scope(event).into_iter().flatten();
        let mut name = None;
        for span in scope {
            name = name.or(span.extensions().get::<NodeName>().map(|name| name.0.clone()));
        }
        let Fields { message, others, .. } = fields;
        self.trace.log(name.as_deref().unwrap_or("-"), &format!("{message}{others}"));
    }
}

#[derive(Default)]
struct Fields {
    name: Option<String>,
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "name" => self.name = Some(format!("{value:?}").trim_matches('"').to_owned()),
            "message" => self.message = format!("{value:?}"),
            other => {
                write!(self.others, " {other}={value:?}").expect("a String takes everything");
            }
        }
    }
}
