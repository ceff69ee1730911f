//! What is to be started, checked before anything is: ids taken, hubs found.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ids::Id;
use crate::init;
use crate::spec::Spec;

use super::StartError;

/// Gateways that are to be started, with ids that nobody else can have any more: from [`Group::plan`](super::Group::plan).
///
/// Dropping it frees the ids.
#[derive(Debug)]
pub struct Plan {
    pub(super) members: Vec<Planned>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) id: Id,
    pub(super) spec: Spec,
    pub(super) hub: Option<Hub>,
}

/// Where a gateway is started from, if not from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hub {
    /// A gateway that is there already, by its id.
    Known(String),
    /// One that is started too, by its place among them.
    Planned(usize),
}

impl Plan {
    /// `known` are the gateways that others may lead through.
    pub(super) fn new(specs: Vec<Spec>, known: impl Fn(&str) -> bool) -> Result<Plan, StartError> {
        if init::program().is_none() {
            return Err(StartError::BeforeInit);
        }
        let vias: Vec<_> = specs.iter().map(|spec| spec.asked_via().map(ToOwned::to_owned)).collect();
        let mut ids: Vec<Option<Id>> = specs.iter().map(|_| None).collect();
        // Those that were asked for first: an automatic one must not be given away that somebody here asks for.
        for (id, spec) in ids.iter_mut().zip(&specs) {
            if let Some(asked) = spec.asked_id() {
                let taken = Id::take(Some(asked));
                *id = Some(taken.ok_or_else(|| StartError::DuplicateId { id: asked.to_owned() })?);
            }
        }
        let ids: Vec<Id> = ids.into_iter().filter_map(|id| id.or_else(|| Id::take(None))).collect();
        let names: Vec<&str> = ids.iter().map(|id| &**id.text()).collect();
        let hubs = hubs(&names, &vias, known)?;
        let members = ids.into_iter().zip(specs).zip(hubs);
        Ok(Plan { members: members.map(|((id, spec), hub)| Planned { id, spec, hub }).collect() })
    }

    /// The ids that the gateways will have, in the order in which they were asked for.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.members.iter().map(|member| member.id.text())
    }

    /// How many gateways are to be started.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nothing to be started.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Finds what each leads through, and sees that it leads somewhere.
fn hubs(
    ids: &[&str],
    vias: &[Option<String>],
    known: impl Fn(&str) -> bool,
) -> Result<Vec<Option<Hub>>, StartError> {
    let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut hubs = Vec::with_capacity(ids.len());
    for (id, via) in ids.iter().zip(vias) {
        hubs.push(match via {
            None => None,
            Some(via) => Some(match places.get(&**via) {
                Some(place) => Hub::Planned(*place),
                None if known(via) => Hub::Known(via.clone()),
                None => {
                    return Err(StartError::UnknownHub { id: (*id).to_owned(), via: via.clone() });
                }
            }),
        });
    }
    // Whoever is met twice on the way up is in a circle. What is known to lead out is not looked at again.
    let mut leads_out = vec![false; ids.len()];
    for start in 0..ids.len() {
        let mut way = Vec::new();
        let mut next = Some(start);
        while let Some(place) = next.filter(|place| !leads_out[*place]) {
            if let Some(first) = way.iter().position(|met| *met == place) {
                let ids = way[first..].iter().map(|place: &usize| ids[*place].to_owned()).collect();
                return Err(StartError::Circle { ids });
            }
            way.push(place);
            next = match &hubs[place] {
                Some(Hub::Planned(hub)) => Some(*hub),
                Some(Hub::Known(_)) | None => None,
            };
        }
        way.into_iter().for_each(|place| leads_out[place] = true);
    }
    Ok(hubs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(members: &[(&str, &str)]) -> Result<Vec<Option<Hub>>, StartError> {
        let (ids, vias): (Vec<_>, Vec<_>) = members.iter().copied().unzip();
        let vias: Vec<_> = vias.into_iter().map(|via| (!via.is_empty()).then(|| via.to_owned())).collect();
        hubs(&ids, &vias, |id| id == "there")
    }

    #[test]
    fn hubs_are_found_wherever_they_stand() {
        let hubs = found(&[("leaf", "hub"), ("hub", "there"), ("twig", "leaf"), ("alone", "")]).unwrap();
        let expected = [Some(Hub::Planned(1)), Some(Hub::Known("there".into())), Some(Hub::Planned(0)), None];
        assert_eq!(hubs, expected);
    }

    #[test]
    fn unknown_hubs_and_circles_are_errors() {
        let error = found(&[("a", ""), ("b", "c")]).unwrap_err();
        assert!(matches!(&error, StartError::UnknownHub { id, via } if id == "b" && via == "c"), "{error:?}");
        let error = found(&[("out", ""), ("a", "b"), ("b", "c"), ("c", "b")]).unwrap_err();
        assert!(matches!(&error, StartError::Circle { ids } if *ids == ["b", "c"]), "{error:?}");
        let error = found(&[("self", "self")]).unwrap_err();
        assert_eq!(error.to_string(), "gateways lead through each other in a circle: self");
    }
}
