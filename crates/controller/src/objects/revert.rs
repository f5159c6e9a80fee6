//! Going back: a change undone, or one object as it was. It is a change as any other: every rule is checked on the
//! result as a whole, and it is in the log.

use super::{Author, Draft, Objects, PREFIX};
use crate::error::ApiError;
use axum::http::StatusCode;
use model::object::{self, Object};
use model::schema::{ObjectType, object_type};
use serde::Serialize;
use serde_json::Value;
use store::{Commit, Op, Written};

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reverted {
    /// Path name of its type.
    #[serde(rename = "type")]
    pub object_type: String,
    /// uuid.
    pub uuid: String,
    /// Its name, as it is now or was until now.
    pub name: String,
    /// What happened: `restored`, `deleted`, or `unchanged` when it was so already.
    pub result: &'static str,
}

/// An object, and what it shall be.
struct Target {
    ty: &'static ObjectType,
    uuid: String,
    /// What it has to be now, if that matters.
    from: Option<Option<Object>>,
    to: Option<Object>,
}

impl Objects {
    /// Undoes the change of a revision: each object that it touched becomes what it was before. `beside` is written
    /// in the same transaction.
    ///
    /// # Errors
    /// 404 when the revision changed no object, 410 when the log does not go back that far, 409 with the names when
    /// one of them is not as that change left it, and what the rules say about the result.
    pub async fn revert(
        &self,
        author: &Author,
        message: &str,
        revision: u64,
        beside: Vec<Op>,
    ) -> Result<Vec<Reverted>, ApiError> {
        let commit = self.store.read_commit(revision).await?;
        let targets = targets(commit, revision)?;
        self.change(author, message, |draft| {
            beside.into_iter().for_each(|op| draft.beside(op));
            draft.check_unchanged(&targets, revision)?;
            draft.restore(targets)
        })
        .await
    }

    /// Makes one object what it was after a revision.
    ///
    /// # Errors
    /// 404 when it was never there, 410 when the log does not go back that far, and what the rules say.
    pub async fn revert_object(
        &self,
        author: &Author,
        ty: &'static ObjectType,
        uuid: &str,
        revision: u64,
    ) -> Result<Vec<Reverted>, ApiError> {
        let key = format!("{PREFIX}{}/{uuid}", ty.path);
        let entry = self.store.get_at(&key, revision).await?;
        let to = entry.map(|e| parse(&key, &e.value)).transpose()?;
        if to.is_none() && self.snapshot().get(&ty.path, uuid).is_none() {
            return Err(ApiError::not_found(&ty.name));
        }
        let target = Target {
            ty,
            uuid: uuid.to_owned(),
            from: None,
            to,
        };
        let message = format!("revert of {} {uuid} to revision {revision}", ty.path);
        self.change(author, &message, |draft| draft.restore(vec![target]))
            .await
    }
}

impl Draft {
    /// Every object is as the change left it: in content, so that a later change that was undone is none.
    fn check_unchanged(&self, targets: &[Target], revision: u64) -> Result<(), ApiError> {
        let changed = targets.iter().filter(|t| {
            let now = self.snapshot.get(&t.ty.path, &t.uuid).map(|s| &s.object);
            let from = t.from.as_ref().map(Option::as_ref);
            from.is_some_and(|from| !same(from, now))
        });
        let names: Vec<_> = changed.map(|t| self.name(t)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let text = format!(
            "revision {revision} cannot be reverted, changed since: {}; revert the later changes first, or give type \
             and uuid of one object and the revision that it shall go back to",
            names.join(", ")
        );
        Err(ApiError::new(StatusCode::CONFLICT, text))
    }

    fn name(&self, target: &Target) -> String {
        let now = self.snapshot.get(&target.ty.path, &target.uuid);
        let now = now.map(|s| &s.object);
        let from = target.from.as_ref().and_then(Option::as_ref);
        let name = [now, from, target.to.as_ref()].into_iter().flatten();
        let name = name.filter_map(|o| o.get("name")?.as_str()).next();
        format!("{} {}", target.ty.name, name.unwrap_or(&target.uuid))
    }

    /// Makes the objects what they shall be, all at once, then checks each.
    fn restore(&mut self, targets: Vec<Target>) -> Result<Vec<Reverted>, ApiError> {
        let results: Vec<_> = targets.iter().map(|t| self.set(t)).collect();
        let results = results.into_iter().collect::<Result<_, _>>()?;
        for Target { ty, uuid, .. } in targets {
            self.check_restored(ty, &uuid)?;
        }
        Ok(results)
    }

    fn set(&mut self, target: &Target) -> Result<Reverted, ApiError> {
        let Target { ty, uuid, to, .. } = target;
        let name = self.name(target);
        let now = self.snapshot.get(&ty.path, uuid).cloned();
        let result = match to {
            to if same(to.as_ref(), now.as_ref().map(|s| &s.object)) => "unchanged",
            Some(object) => {
                self.put(ty, uuid, object.clone());
                "restored"
            }
            None if now.is_some_and(|s| s.is_system()) => {
                let text = format!("{name} was there from the start and cannot be deleted");
                return Err(ApiError::new(StatusCode::FORBIDDEN, text));
            }
            None => {
                self.remove(ty, uuid);
                "deleted"
            }
        };
        let prefix = ty.name.len() + 1;
        Ok(Reverted {
            object_type: ty.path.clone(),
            uuid: uuid.clone(),
            name: name[prefix..].to_owned(),
            result,
        })
    }

    /// The rules for one object that were checked when it was written, among the objects of now.
    fn check_restored(&mut self, ty: &'static ObjectType, uuid: &str) -> Result<(), ApiError> {
        if !self
            .touched
            .contains_key(&(ty.path.as_str(), uuid.to_owned()))
        {
            return Ok(());
        }
        let Some(stored) = self.snapshot.get(&ty.path, uuid).cloned() else {
            return self.check_unused(ty, uuid);
        };
        let mut object = stored.object.clone();
        for reference in object::references(ty, &object) {
            let target = reference.value.rsplit('/').next().unwrap_or("");
            if self.snapshot.get(reference.target, target).is_none() {
                let text = format!(
                    "{} {}: {} refers to {}, which is not there any more; bring that back first",
                    ty.name,
                    stored.name(),
                    reference.path,
                    reference.value
                );
                return Err(ApiError::new(StatusCode::CONFLICT, text));
            }
        }
        self.finish(ty, uuid, &mut object)?;
        self.put(ty, uuid, object);
        Ok(())
    }
}

/// Equal but for the time of the write.
fn same(one: Option<&Object>, other: Option<&Object>) -> bool {
    let content = |o: &Object| {
        let mut fields = o.clone();
        fields.shift_remove("_last_modified");
        fields
    };
    one.map(content) == other.map(content)
}

fn targets(commit: Option<Commit>, revision: u64) -> Result<Vec<Target>, ApiError> {
    let writes = commit.map(|c| c.writes).unwrap_or_default();
    let ours = writes.iter().filter(|w| w.key.starts_with(PREFIX));
    let targets: Vec<_> = ours.map(target).collect::<Result<_, _>>()?;
    if targets.is_empty() {
        let text =
            format!("revision {revision} changed no object; the audit log has those that did");
        return Err(ApiError::new(StatusCode::NOT_FOUND, text));
    }
    Ok(targets)
}

fn target(write: &Written) -> Result<Target, ApiError> {
    let Written { key, before, after } = write;
    let unknown = || ApiError::internal(&format!("reading {key}"), &"it is no object's key");
    let (path, uuid) = key[PREFIX.len()..].split_once('/').ok_or_else(unknown)?;
    let read = |value: &Option<Vec<u8>>| value.as_ref().map(|v| parse(key, v)).transpose();
    Ok(Target {
        ty: object_type(path).ok_or_else(unknown)?,
        uuid: uuid.to_owned(),
        from: Some(read(after)?),
        to: read(before)?,
    })
}

fn parse(key: &str, value: &[u8]) -> Result<Object, ApiError> {
    match serde_json::from_slice(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::internal(
            &format!("reading {key}"),
            &"it is no object",
        )),
        Err(error) => Err(ApiError::internal(&format!("reading {key}"), &error)),
    }
}
