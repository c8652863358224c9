"use strict";
// Relative, so that a prefix of a proxy stays. No validator: it would send the document elsewhere.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  validatorUrl: null,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  queryConfigEnabled: false,
});
