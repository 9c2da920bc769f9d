"""app1's routes: the API, the page, and what operators look at."""

from __future__ import annotations

from app1.views.api import api
from app1.views.host import host
from app1.views.operations import operations
from app1.views.page import page
from app1.views.protocols import ollama, openai

BLUEPRINTS = (api, page, host, operations, ollama, openai)
