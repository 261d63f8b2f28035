"""Judges an OpenAPI 3.1 document: openapi.py FILE; says what is wrong and exits 3.

Its form against the schema below (written from the specification, of the parts a hub uses), every
schema in it against JSON Schema 2020-12's own, and what no schema can say: that references lead
somewhere, operation ids are unique, and path parameters are those of the path.
"""
import json
import re
import sys

import jsonschema


def closed(must, /, **properties):
    return {"type": "object", "properties": properties, "required": must.split(),
            "additionalProperties": False, "patternProperties": {"^x-": {}}}


def mapping(pattern, of):
    return {"type": "object", "patternProperties": {pattern: of}, "additionalProperties": False}


TEXT = {"type": "string", "minLength": 1}
SCHEMA = {"type": "object"}
REF = closed("$ref", **{"$ref": TEXT})
CONTENT = {**mapping(r"^[^/]+/[^/]+$", closed("schema", schema=SCHEMA)), "minProperties": 1}
PARAMETER = closed("name in schema", name=TEXT, required={"type": "boolean"}, description=TEXT,
                   schema=SCHEMA, deprecated={"type": "boolean"},
                   **{"in": {"enum": ["query", "header", "path", "cookie"]}})
PARAMETER["if"] = {"properties": {"in": {"const": "path"}}}
PARAMETER["then"] = {"properties": {"required": {"const": True}}, "required": ["required"]}
HEADER = closed("schema", description=TEXT, schema=SCHEMA)
RESPONSE = closed("description", description=TEXT, content=CONTENT, headers=mapping(".", HEADER))
RESPONSES = {**mapping(r"^([1-5][0-9][0-9]|default)$", {"if": {"required": ["$ref"]}, "then": REF,
                                                       "else": RESPONSE}), "minProperties": 1}
OPERATION = closed("tags summary operationId responses security x-role",
                   tags={"type": "array", "items": TEXT, "minItems": 1}, summary=TEXT,
                   description=TEXT, operationId={"type": "string", "pattern": "^[a-z][a-zA-Z0-9_]*$"},
                   parameters={"type": "array", "items": PARAMETER}, deprecated={"type": "boolean"},
                   requestBody=closed("content", required={"type": "boolean"}, content=CONTENT),
                   responses=RESPONSES, security={"type": "array", "items": mapping(".", {"type": "array"})})
DOCUMENT = closed(
    "openapi info paths components",
    openapi={"const": "3.1.0"},
    info=closed("title version", title=TEXT, version=TEXT, description=TEXT),
    tags={"type": "array", "items": closed("name", name=TEXT, description=TEXT)},
    paths=mapping("^/", mapping("^(get|put|post|delete|patch|head|options)$", OPERATION)),
    components=closed("schemas", schemas=mapping(r"^[A-Za-z0-9._-]+$", SCHEMA),
                      responses=mapping(".", RESPONSE),
                      securitySchemes=mapping(".", closed("type", type={"const": "http"}, scheme=TEXT))))


def walk(node):
    """Every object of the document."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child)


def check_references(doc):
    for node in walk(doc):
        ref = node.get("$ref") if isinstance(node.get("$ref"), str) else None
        if ref is None:
            continue
        at = doc
        for key in ref.removeprefix("#/").split("/"):
            assert key in at, f"{ref} leads nowhere"
            at = at[key]


def check_operations(doc):
    ids, templates, tags = set(), set(), {tag["name"] for tag in doc["tags"]}
    for path, item in doc["paths"].items():
        template = re.sub(r"\{[^}]*\}", "{}", path)
        assert template not in templates, f"{path} is there under other names"
        templates.add(template)
        for method, op in item.items():
            where = f"{method} {path}"
            assert op["operationId"] not in ids, f"{where}: operationId is not unique"
            ids.add(op["operationId"])
            named = [p["name"] for p in op.get("parameters", []) if p["in"] == "path"]
            assert named == re.findall(r"\{([^}]*)\}", path), f"{where}: path parameters {named}"
            both = [(p["name"], p["in"]) for p in op.get("parameters", [])]
            assert len(both) == len(set(both)), f"{where}: a parameter is there twice"
            assert set(op["tags"]) <= tags, f"{where}: unknown tag"
            schemes = doc["components"].get("securitySchemes", {})
            assert all(name in schemes for need in op["security"] for name in need), f"{where}: security"


def schemas_of(doc):
    yield from doc["components"]["schemas"].values()
    for node in walk([doc["paths"], doc["components"].get("responses", {})]):
        if isinstance(node.get("schema"), dict):
            yield node["schema"]


def check(doc):
    jsonschema.Draft202012Validator(DOCUMENT).validate(doc)
    for schema in schemas_of(doc):
        jsonschema.Draft202012Validator.check_schema(schema)
    check_references(doc)
    check_operations(doc)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        doc = json.load(file)
    try:
        check(doc)
    except (jsonschema.ValidationError, jsonschema.SchemaError) as wrong:
        print(f"{'/'.join(map(str, wrong.absolute_path))}: {wrong.message[:300]}", file=sys.stderr)
        return 3
    except AssertionError as wrong:
        print(wrong, file=sys.stderr)
        return 3
    return 0


sys.exit(main())
