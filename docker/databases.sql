-- A database of its own, and a role that owns no other, for the cases and for MLflow.
\set cases_password `cat /run/secrets/cases_password`
\set tracking_password `cat /run/secrets/tracking_password`
CREATE ROLE cases LOGIN PASSWORD :'cases_password';
CREATE ROLE mlflow LOGIN PASSWORD :'tracking_password';
CREATE DATABASE cases OWNER cases;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE cases, mlflow FROM PUBLIC;
